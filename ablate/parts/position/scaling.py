"""How RoPE's frequencies change for contexts longer than the trained one.

A scaling is supplied with the shape, the number of turned channels and the base; called with the
frequencies (turned/2,) it returns the new ones and a gain for cos and sin.
"""

from torch import Tensor

from ablate.registry import scaling
from ablate.spec import Shape


@scaling("none", paper="arXiv:2104.09864")
class NoScaling:
    """The frequencies of the paper."""

    def __init__(self, shape: Shape, turned: int, base: float):
        pass

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        return frequency, 1.0
