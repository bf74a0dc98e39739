"""A gain of each layer, a residual stream."""

from typing import Any

import torch
from torch import Tensor, nn

from ablate.parts.connection import Connection, ResidualStream, State
from ablate.registry import stream
from ablate.spec import Shape


@stream("layer_gain", paper="https://huggingface.co/google/gemma-4-E2B-it")
class LayerGain(ResidualStream):
    """x <- x + f(x), and x <- g x after each layer, g one number that starts at 1 (Gemma 4's `layer_scalar`).

    The first branch of the next layer multiplies with g, and the last g stands before the final norm: a
    lookup at the start of a layer reads x without it. Theirs is a constant; ours is learned.
    """

    def __init__(self, shape: Shape):
        super().__init__(shape)

    def connection(self, branch: int, first: bool) -> Connection:
        return GainedConnection() if first and branch > 0 else Connection()

    def exit(self) -> nn.Module:
        return GainOfLayer()


class GainOfLayer(nn.Module):
    """g x."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(1))
        self.constants = {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.gain.to(x.dtype) * x


class GainedConnection(Connection):
    """The plain sum, of g x."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = GainOfLayer()

    def read(self, state: State) -> tuple[Tensor, Any]:
        x = self.gain(state)
        return x, x
