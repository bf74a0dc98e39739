"""How a tensor may start, for a part to say in `self.starts`: each a function of shape and generator.

self.starts = {"down.weight": zeros, "mix": eye, "features": lambda shape, generator: ...}
"""

from collections.abc import Callable

import torch
from torch import Tensor

Sizes = tuple[int, ...]
Start = Callable[[Sizes, torch.Generator], Tensor]


def zeros(shape: Sizes, generator: torch.Generator) -> Tensor:
    """Initial values of zero, for biases and gates."""
    return torch.zeros(shape)


def ones(shape: Sizes, generator: torch.Generator) -> Tensor:
    """Initial values of one, for scales."""
    return torch.ones(shape)


def eye(shape: Sizes, generator: torch.Generator) -> Tensor:
    """1 on the diagonal of the last two dimensions, 0 elsewhere."""
    return torch.eye(*shape[-2:]).expand(shape)


def orthogonal(shape: Sizes, generator: torch.Generator) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, uniformly distributed (Saxe et al. 2014)."""
    *others, rows, columns = shape
    tall = torch.randn(*others, max(rows, columns), min(rows, columns), generator=generator)
    q, r = torch.linalg.qr(tall)
    signed: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return signed if rows >= columns else signed.transpose(-1, -2)


def uniform(bound: float) -> Start:
    """Uniform within the bound on both sides of 0."""
    return lambda shape, generator: (2 * torch.rand(shape, generator=generator) - 1) * bound


def normal(deviation: float) -> Start:
    """Normal, of mean 0."""
    return lambda shape, generator: torch.randn(shape, generator=generator) * deviation
