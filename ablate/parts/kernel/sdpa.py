"""Attention by torch's `scaled_dot_product_attention`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.parts.base import AttentionPositions, Bias, Kernel, KernelRequirements, Mask, Scores
from ablate.parts.stacked import attend, stacked
from ablate.registry import kernel

_SHORT = 2**14  # numbers in the keys of a head, up to which a gradient in fp32 is faster than one in bf16


class PreparedMask(NamedTuple):
    """What torch's function is told of a layer."""

    mask: Tensor | None  # bool, or float with the bias; None: the order alone decides
    causal: bool


@kernel("sdpa", paper="arXiv:2205.14135")
class SDPA(Kernel):
    """torch's scaled_dot_product_attention, which picks a fused kernel (flash, memory-efficient, cuDNN).

    A learned sink is one more key, of score b and value 0. Width of values is padded to that of keys,
    since the fused CPU kernel wants them equal. Where each head has a single query, the heads that share a
    key are given as the queries of one head, since torch would copy keys and values to each of them.
    """

    name = "sdpa"

    def refuses(self, need: KernelRequirements) -> str | None:
        return "cannot cap the scores" if need.softcap else None

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> PreparedMask:
        if bias is None and (mask.causal(sight) or (sight.last and mask.free(sight))):
            return PreparedMask(None, causal=sight.own)
        seen = mask.dense(sight)
        if bias is None:
            return PreparedMask(seen, causal=False)
        b = bias(*sight.grid(heads))
        return PreparedMask(torch.where(seen, b, -torch.inf).to(dtype), causal=False)

    def with_scores(self, prepared: PreparedMask, more: Tensor) -> PreparedMask:
        mask, causal = prepared
        if mask is None and causal:
            mask = torch.ones(more.shape[-2:], dtype=torch.bool, device=more.device).tril()
        if mask is None:
            return PreparedMask(more, causal=False)
        if mask.dtype != torch.bool:
            return PreparedMask(mask + more, causal=False)
        return PreparedMask(more.masked_fill(~mask, -torch.inf), causal=False)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: PreparedMask, scores: Scores, dropout: float
    ) -> Tensor:
        mask, causal = prepared
        if mask is not None and mask.dtype not in (torch.bool, q.dtype):
            mask, prepared = (found := mask.to(q.dtype)), prepared._replace(mask=found)
        width = v.shape[-1]
        if width < k.shape[-1]:
            padded = F.pad(v, (0, k.shape[-1] - width))
            return self(q, k, padded, prepared, scores, dropout)[..., :width]
        if scores.sink is not None:
            mask = _with_sink(mask, causal, scores.sink, q.shape[2], k.shape[2], q.dtype)
            causal = False
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        if q.shape[2] == 1 and k.shape[1] < q.shape[1]:
            B, H, _, D = q.shape
            K = k.shape[1]
            if mask is not None and mask.shape[1] == H:
                mask = mask.reshape(-1, K, H // K, mask.shape[-1])
            y = F.scaled_dot_product_attention(
                q.reshape(B, K, H // K, D), k, v, mask, dropout, scale=scores.scale
            )
            return y.reshape(B, H, 1, width)
        return prepared_attention(v, mask)(
            q,
            k,
            v,
            mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=scores.scale,
            enable_gqa=k.shape[1] != q.shape[1],
        )


def prepared_attention(v: Tensor, mask: Tensor | None) -> Callable[..., Tensor]:
    """torch's function, or the way around what it does slowly in training on a CPU."""
    trained = v.device.type == "cpu" and torch.is_grad_enabled()
    # vmap hides whether a mask has a gradient; of several models each has a mask of its own, if it is learned
    if trained and mask is not None and mask.is_floating_point() and (mask.requires_grad or stacked(mask)):
        return partial(in_fp32, written_out)
    if stacked(v):
        return written_out if torch.compiler.is_compiling() else attend
    if trained and v.dtype == torch.bfloat16 and v.shape[-2] * v.shape[-1] <= _SHORT:
        return partial(in_fp32, F.scaled_dot_product_attention)
    return F.scaled_dot_product_attention


def in_fp32(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any
) -> Tensor:
    """torch's gradient in bf16 spends some 0.3 ms on each head, which in fp32 it does not."""
    wide = torch.promote_types(v.dtype, torch.float32)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(wide)
    with torch.autocast("cpu", enabled=False):
        return attend(q.to(wide), k.to(wide), v.to(wide), mask, **options).to(v.dtype)


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    scale: float,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Tensor:
    """For a learned bias, of which no fused kernel of the CPU has a gradient: torch writes out the scores,
    too, and searches them for queries that see nothing; here each sees itself. And for what the compiler
    makes of several models, in which the fused kernels of a GPU fail."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q * scale) @ k.mT
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return F.dropout(scores.softmax(-1), dropout_p) @ v


def _with_sink(mask: Tensor | None, causal: bool, sink: Tensor, T: int, S: int, dtype: torch.dtype) -> Tensor:
    """The additive mask with a last column that holds the sink's logit: (1|B, H, T, S+1)."""
    if mask is None:
        mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=sink.device)
        mask = mask.tril() if causal else mask
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    mask = mask.expand(-1, sink.shape[0], -1, -1)
    column = sink.to(dtype)[None, :, None, None].expand(mask.shape[0], -1, T, 1)
    return torch.cat((mask, column), -1)
