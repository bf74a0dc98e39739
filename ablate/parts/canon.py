"""Canon layers: short convolutions with a residual around them, at points of a block."""

from typing import Any

from torch import Tensor, nn

from ablate.parts.recurrence import ShortConvolution

STATES = "states"  # in `view.shared`: the view of what short convolutions remember, where a layer has one


class Canon(nn.Module):
    """x_t + sum_{j<K} w_j x_{t-j} for each channel apart, inside of a document (Allen-Zhu 2025, section 4.1).

    The last K - 1 inputs are remembered under `name`.
    """

    def __init__(self, width: int, kernel_size: int, name: str):
        super().__init__()
        self.convolution, self.name = ShortConvolution(width, kernel_size), name
        self.more_products = kernel_size * width
        self.more_activations = 2 * width
        self.remembered = (kernel_size - 1) * width  # numbers of a row

    def forward(self, x: Tensor, states: Any, n: int) -> Tensor:
        """x (B,T,width) of layer n; `states` is what `view.shared` holds under STATES."""
        y: Tensor = x + self.convolution(x, states, n, self.name)
        return y


def canons(module: nn.Module) -> list[Canon]:
    """Those inside of a module."""
    return [part for part in module.modules() if isinstance(part, Canon)]
