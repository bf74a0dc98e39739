"""Positions divided by a factor."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from ablate.registry import scaling
from ablate.spec import Shape


@scaling("linear", paper="arXiv:2306.15595")
class _Linear:
    """frequency / factor: positions are squeezed into the trained range (position interpolation; Chen et
    al. 2023, eq. 4)."""

    def __init__(self, shape: Shape, rotary_dim: int, base: float, *, factor: Annotated[float, Ge(1)] = 4.0):
        self.factor = factor

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        return frequency / self.factor, 1.0
