"""Short convolution, a token mixer."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.registry import attention
from ablate.spec import Shape


@attention("short_convolution", paper="arXiv:2511.23404")
class GatedShortConvolution(RecurrentMixer):
    """y = out(c * conv(b * u)), with b, c, u = W x and a convolution for each channel (LFM2)."""

    def __init__(self, shape: Shape, *, convolution: Annotated[int, Ge(2)] = 3, bias: bool = False):
        super().__init__()
        C = shape.width
        self.b, self.c, self.u = (Linear(C, C, bias=bias) for _ in range(3))
        self.conv = ShortConvolution(C, convolution, bias)
        self.out = Linear(C, C, bias=bias)
        self.state_sizes = ((convolution - 1) * C,)
        self.state_products = convolution * C

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        y: Tensor = self.out(self.c(x) * self.conv(self.b(x) * self.u(x), view, n, "conv"))
        return y
