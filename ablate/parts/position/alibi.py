"""Attention with linear biases."""

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import Shape


@position("alibi", paper="arXiv:2108.12409")
class Alibi(Position):
    """Each head fades with distance: b(h,i,j) = -m_h |i - j|, m_h = 2^(-span (h+1)/H).

    Press et al. 2022, section 3; the slopes of an H that is no power of two are those of the authors' code.
    With `scaled`, m_h is divided by sqrt(D), as q.k is (Falcon-RW).
    The distance is absolute, which differs from the paper only where a prefix sees ahead.
    """

    def __init__(
        self, shape: Shape, *, max_slope_exponent: Annotated[float, Gt(0)] = 8.0, scaled: bool = False
    ):
        super().__init__(shape)
        self.steepness = shape.head_width**-0.5 if scaled else 1.0
        self.heads, self.max_slope_exponent = shape.heads, max_slope_exponent

    @property
    def slopes(self) -> Tensor:  # type: ignore[override]
        return self.slope(torch.arange(self.heads))

    def slope(self, h: Tensor) -> Tensor:
        """A geometric sequence for powers of two; otherwise that of the power below, filled up with every
        other slope of the power above (the authors' code, get_slopes)."""
        below = 2 ** math.floor(math.log2(self.heads))
        exponent = (2 * (h + 1) - (2 * below + 1) * (h >= below)) / (2 * below)
        return self.steepness * torch.exp2(-self.max_slope_exponent * exponent)

    def bias(self, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return -self.slope(h) * (i - j).abs()
