"""Attention by torch's FlexAttention, which compiles masks and biases into one kernel."""

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ablate.parts.base import AttentionPositions, Bias, Kernel, KernelRequirements, Mask, Scores
from ablate.parts.compiler import keep_graphs
from ablate.registry import kernel

NARROWEST = 16  # channels of a head that the CUDA kernel can do
# Of the forward pass in half precision with a table to read for each score: what torch chooses for it asks
# for more shared memory than there is.
NARROW: Any = {"fwd_BLOCK_N": 64, "fwd_num_warps": 8}


class _Prepared(NamedTuple):
    """What FlexAttention is told of a layer."""

    blocks: Any  # BlockMask: which blocks of scores have a key that is seen
    sight: AttentionPositions
    bias: Bias | None


@kernel("flex", paper="arXiv:2412.05496")
class Flex(Kernel):
    """torch's flex_attention: mask, bias and soft-cap become part of one fused kernel, and blocks of 128 by
    128 scores that the mask hides whole are not computed.

    A sink logit s joins the denominator afterwards: out * sigmoid(lse - s), lse the log of the sum of the
    exponentiated scores. Compiled on CUDA; elsewhere torch computes it whole, and forward only.
    """

    name = "flex"
    options: Any = None  # of the compiled kernel

    def refuses(self, need: KernelRequirements) -> str | None:
        on_cuda = need.device.startswith("cuda")
        if need.training and not on_cuda:
            return f"has no backward pass on {need.device} (torch)"
        if need.training and need.dropout:
            return "has no dropout of attention weights"
        if need.more_scores:
            return "adds no scores that a layer makes of the text"
        if on_cuda and min(need.key_width, need.value_width) < NARROWEST:
            return f"needs heads of at least {NARROWEST} channels on cuda"
        return None

    def settle(self, needs: list[KernelRequirements]) -> Kernel:
        narrow = any(need.learned_bias and need.dtype != torch.float32 for need in needs)
        self.options = NARROW if narrow else None
        return super().settle(needs)

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> _Prepared:
        from torch.nn.attention.flex_attention import create_block_mask

        # As int64 they take twice the registers, which spill.
        sight = replace(sight, i=sight.i.int(), j=sight.j.int())
        i, j, prefix, documents = sight.i, sight.j, sight.prefix if mask.prefix else None, sight.documents
        rows = max(x.shape[0] for x in (i, j, *(documents or ()), *([] if prefix is None else [prefix])))

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            p = None if prefix is None else prefix[b]
            shown = mask.visible(at(i, b, q), at(j, b, k), p)
            if documents is not None:
                shown = shown & (at(documents[0], b, q) == at(documents[1], b, k))
            return shown

        blocks = create_block_mask(
            seen,
            rows if rows > 1 else None,
            None,
            i.shape[1],
            j.shape[1],
            device=i.device,
            _compile=i.is_cuda and not torch.compiler.is_compiling(),
        )
        return _Prepared(blocks, sight, bias)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: _Prepared, scores: Scores, dropout: float
    ) -> Tensor:
        from torch.nn.attention.flex_attention import AuxRequest, flex_attention

        blocks, sight, bias = prepared
        i, j, softcap = sight.i, sight.j, scores.softcap

        def change(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if softcap is not None:
                score = softcap * torch.tanh(score / softcap)
            if bias is not None:
                score = score + bias(h, at(i, b, q), at(j, b, k))
            return score

        attend = compiled_flex() if q.is_cuda and not torch.compiler.is_compiling() else flex_attention
        out: Any = attend(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            score_mod=None if softcap is None and bias is None else change,
            block_mask=blocks,
            scale=scores.scale,
            enable_gqa=q.shape[1] != k.shape[1],
            kernel_options=self.options,
            return_aux=None if scores.sink is None else AuxRequest(lse=True),
        )
        if scores.sink is None:
            return cast(Tensor, out)
        y, lse = cast(Tensor, out[0]), out[1].lse
        return y * torch.sigmoid(lse - scores.sink.to(lse.dtype)[:, None])[..., None].to(y.dtype)


def at(x: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """Element n of row b, where there may be one row for all: x (1|B, T)."""
    return x[b % x.shape[0], n]


@lru_cache
def compiled_flex() -> Any:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    keep_graphs()
    return torch.compile(flex_attention)
