"""A part of one's own, in a file of one's own: a learned logarithmic decay of the scores with distance.

python train.py parts=[docs/examples/kerple.py] model/position=kerple
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import Shape


@position("kerple", paper="arXiv:2205.09921")
class Kerple(Position):
    """b(h,i,j) = -a_h log(1 + c_h |i - j|) with learned a, c > 0 (Chi et al. 2022, the log variant)."""

    def __init__(self, shape: Shape, *, start: Annotated[float, Gt(0)] = 1.0):
        super().__init__(shape)
        self.constants = {"a": start, "c": start}  # what the vectors start from; matrices are drawn
        self.a = nn.Parameter(torch.full((shape.heads,), start))
        self.c = nn.Parameter(torch.full((shape.heads,), start))

    def bias(self, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        a, c = self.a.clamp(min=1e-6)[h], self.c.clamp(min=1e-6)[h]
        return -a * torch.log1p(c * (i - j).abs())
