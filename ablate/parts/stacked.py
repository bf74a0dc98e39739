"""Parts that compute for several models at once, under `torch.func.vmap` (`ablate.train.speed.ensemble`).

Matrix products and elementwise operations have batching rules in torch. The fused attention of the CPU has
none, and would be called for one model after the other: here the models become rows of one call.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def stacked(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors is that of several models."""
    return any(x is not None and torch._C._functorch.is_batchedtensor(x) for x in tensors)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    """`scaled_dot_product_attention` of several models. q (B,H,T,D), k (B,K,S,D), v (B,K,S,D), mask
    (1|B,1|H,T,S) -> (B,H,T,D), each of them with or without a dimension of models that vmap hides."""
    y: Tensor = _Attend.apply(q, k, v, mask, options)  # type: ignore[no-untyped-call]
    return y


class _Attend(torch.autograd.Function):
    """Only `vmap` is ever called; what it calls brings its own gradients."""

    @staticmethod
    def forward(*given: Any) -> Tensor:
        raise NotImplementedError("attention of several models outside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise NotImplementedError

    @staticmethod
    def vmap(
        info: Any, dims: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> tuple[Tensor, int]:
        N = info.batch_size
        q, k, v = (_rows(x, dim, N) for x, dim in zip((q, k, v), dims, strict=False))
        if mask is not None and (dims[3] is not None or len(mask) > 1):
            mask = _rows(mask, dims[3], N, len(q) // N)
        return F.scaled_dot_product_attention(q, k, v, mask, **options).unflatten(0, (N, -1)), 0


def _rows(x: Tensor, dim: int | None, N: int, B: int = -1) -> Tensor:
    """(B, ...) of N models, stacked along `dim` or the same for all, as (N B, ...)."""
    x = x.expand(N, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.expand(N, B, *x.shape[2:]).flatten(0, 1)
