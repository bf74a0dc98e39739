import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import Shape


def published_slopes(heads: int, span: float) -> list[float]:
    """A geometric sequence for powers of two; otherwise that of the power below, filled up with every
    other slope of the power above (the authors' code, get_slopes)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-span * (n + 1) / below) for n in range(below)]
    between = [2 ** (-span * (n + 1) / (2 * below)) for n in range(0, 2 * below, 2)]
    return slopes + between[: heads - below]


@position("alibi", paper="arXiv:2108.12409")
class Alibi(Position):
    """Each head fades with distance: b(h,i,j) = -m_h |i - j|, m_h = 2^(-span (h+1)/H).

    Press et al. 2022, section 3. The distance is absolute, which differs from the paper only where a
    prefix sees ahead.
    """

    def __init__(self, shape: Shape, *, span: Annotated[float, Gt(0)] = 8.0):
        super().__init__(shape)
        self._slopes = published_slopes(shape.heads, span)

    @property
    def slopes(self) -> Tensor:  # type: ignore[override]
        return torch.tensor(self._slopes)

    def bias(self, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return -self.slopes.to(h.device)[h] * (i - j).abs()
