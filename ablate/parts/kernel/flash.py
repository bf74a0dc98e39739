"""Attention by the package flash-attn, where it is installed."""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ablate.parts.base import (
    AttentionPositions,
    Bias,
    IncompatibleParts,
    Kernel,
    KernelRequirements,
    Mask,
    Scores,
)
from ablate.parts.kernel.reference import Reference
from ablate.registry import kernel


class _Version(NamedTuple):
    """One of the libraries that call themselves flash-attention, and what it is relied on for here."""

    module: str
    package: str
    unbounded: int | None  # how it writes a window without an end
    slopes: bool
    softcap: bool
    dropout: bool
    widest: int  # channels of a head

    def lacks(self, need: KernelRequirements) -> str | None:
        for asked, has, what in (
            (need.slopes, self.slopes, "ALiBi slopes"),
            (need.softcap, self.softcap, "a soft-cap"),
            (bool(need.dropout and need.training), self.dropout, "dropout"),
        ):
            if asked and not has:
                return f"{self.package} has no {what}"
        if need.key_width > self.widest:
            return f"{self.package} has heads of at most {self.widest} channels"
        return None


# In order of preference. The backward pass of 4 through a soft-cap is young, so it is not relied on.
VERSIONS = {
    3: _Version(
        "flash_attn_interface", "flash-attn 3", -1, slopes=False, softcap=True, dropout=False, widest=256
    ),
    2: _Version("flash_attn", "flash-attn 2", -1, slopes=True, softcap=True, dropout=True, widest=256),
    4: _Version(
        "flash_attn.cute", "flash-attn 4", None, slopes=False, softcap=False, dropout=False, widest=128
    ),
}


class _Plan(NamedTuple):
    """What flash-attn is told of a layer."""

    window: int | None
    slopes: Tensor | None  # (H,) fp32


@kernel("flash", paper="arXiv:2205.14135")
class Flash(Kernel):
    """The flash-attention libraries (Dao et al. 2022; versions 2, 3 and 4), if one is installed.

    They do causal attention in half precision on CUDA, with a window, a soft-cap or ALiBi. A call they have
    no words for (remembered keys, padded prompts, a prefix: generation) is computed as `reference` does: the
    same mathematics. `version` null takes the first installed of 3, 2, 4 that serves every layer.
    """

    name = "flash"

    def __init__(self, *, version: Literal[2, 3, 4] | None = None):
        self.versions = {n: v for n, v in VERSIONS.items() if version in (None, n)}
        self.chosen: tuple[_Version, Callable[..., Any]] | None = None
        self.otherwise = Reference()

    def refuses(self, need: KernelRequirements) -> str | None:
        if not need.device.startswith("cuda"):
            return f"runs on CUDA, not on {need.device}"
        if need.dtype not in (torch.float16, torch.bfloat16):
            return "computes in half precision (precision=bf16)"
        for asked, what in (
            (need.bias and not need.slopes, "position biases other than ALiBi's"),
            (need.learned_bias, "learned biases"),
            (need.sink, "sink logits"),
            (need.more_scores, "scores that a layer makes of the text"),
            (need.mask.sink_tokens > 0, "kept first keys"),
            (need.mask.prefix, "prefixes"),
            (need.mask.chunk is not None, "chunks"),
            (need.documents, "document borders"),
            (need.key_width != need.value_width, "keys wider than values"),
            (need.key_width % 8 != 0, "head widths that are not a multiple of 8"),
        ):
            if asked:
                return f"has no {what}"
        there = [version for version in self.versions.values() if loaded(version)]
        if not there:
            return f"is not installed ({' or '.join(v.package for v in self.versions.values())}): {HINT}"
        lacking = [version.lacks(need) for version in there]
        return None if None in lacking else "; ".join(filter(None, lacking))

    def settle(self, needs: list[KernelRequirements]) -> Kernel:
        super().settle(needs)
        for version in self.versions.values():
            attend = loaded(version)
            if attend and not any(version.lacks(need) for need in needs):
                self.chosen = version, attend
                return self
        raise IncompatibleParts(f"kernel {self.name}: no installed version serves every layer")

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> Any:
        if not sight.own or not sight.plain:
            return self.otherwise.prepare(mask, sight, bias, heads, dtype)
        slopes = None
        if bias is not None:  # linear in the distance, as `refuses` made sure: its value at distance 1
            h = torch.arange(heads, device=sight.i.device)
            slopes = -bias(h, torch.ones_like(h), torch.zeros_like(h)).float()
        return _Plan(mask.window, slopes)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: Any, scores: Scores, dropout: float
    ) -> Tensor:
        if not isinstance(prepared, _Plan):
            return self.otherwise(q, k, v, prepared, scores, dropout)
        assert self.chosen is not None, "a kernel is settled before it is called"
        version, attend = self.chosen
        given = {
            "softmax_scale": scores.scale,
            "causal": True,
            "window_size": (version.unbounded,) * 2 if prepared.window is None else (prepared.window - 1, 0),
        }
        if scores.softcap is not None:
            given["softcap"] = scores.softcap
        if prepared.slopes is not None:
            given["alibi_slopes"] = prepared.slopes
        if dropout:
            given["dropout_p"] = dropout
        y = attend(*(x.to(v.dtype).transpose(1, 2) for x in (q, k, v)), **given)
        heads: Tensor = y[0] if isinstance(y, tuple) else y  # some versions return the logsumexp too
        return heads.transpose(1, 2)


HINT = "pip install flash-attn --no-build-isolation (it needs nvcc), or kernel=flex"


def loaded(version: _Version) -> Callable[..., Any] | None:
    """The library's function; None where it is not installed or does not load."""
    try:
        attend: Callable[..., Any] | None = getattr(
            importlib.import_module(version.module), "flash_attn_func", None
        )
    except (ImportError, OSError):  # OSError: a library that was built for another CUDA
        return None
    return attend
