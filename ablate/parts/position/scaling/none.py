"""The absent scaling."""

from torch import Tensor

from ablate.registry import scaling
from ablate.spec import Shape


@scaling("none", paper="arXiv:2104.09864")
class NoScaling:
    """The frequencies of the paper."""

    def __init__(self, shape: Shape, rotary_dim: int, base: float):
        pass

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        return frequency, 1.0
