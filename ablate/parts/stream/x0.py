"""The embedding beside the stream, a residual stream."""

from typing import Any

import torch
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, ResidualStream, State
from ablate.registry import stream
from ablate.spec import Shape


@stream("x0", paper="https://github.com/KellerJordan/modded-nanogpt")
class X0(ResidualStream):
    """x <- a x + b x_0 before each layer, then x <- x + f(x); x_0 is the embedding (modded-nanogpt).

    a starts at 1 and b at `start`, one number each for a layer. At 0 it starts as the plain stream.
    """

    def __init__(self, shape: Shape, *, start: float = 0.0):
        super().__init__(shape)
        self.start = start

    def entrance(self) -> nn.Module:
        return Doubled()

    def connection(self, branch: int, first: bool) -> Connection:
        return FirstOfLayer(self.start) if first else BesideEmbedding()

    def exit(self) -> nn.Module:
        return First()


class Doubled(nn.Module):
    """x -> (x, x_0)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class First(nn.Module):
    """(x, x_0) -> x."""

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return state[0]


class BesideEmbedding(Connection):
    """The plain sum, which hands the embedding on."""

    def read(self, state: State) -> tuple[Tensor, Any]:
        return state[0], state

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        x, embedded = kept
        return close(x, delta), embedded


class FirstOfLayer(BesideEmbedding):
    """Mixes the embedding in before the layer."""

    def __init__(self, start: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.constants = {"a": 1.0, "b": start}

    def read(self, state: State) -> tuple[Tensor, Any]:
        x, embedded = state
        mixed = self.a.to(x.dtype) * x + self.b.to(x.dtype) * embedded
        return mixed, (mixed, embedded)
