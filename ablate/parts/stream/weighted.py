"""Weighted by channel, a residual stream."""

from typing import Any

import torch
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, ResidualStream, State
from ablate.registry import stream
from ablate.spec import Shape


@stream("weighted", paper="https://huggingface.co/SmallDoge/Doge-320M")
class Weighted(ResidualStream):
    """x <- w x + f(x), w learned for each channel of each branch and 1 at the start (Doge)."""

    def __init__(self, shape: Shape):
        super().__init__(shape)

    def connection(self, branch: int, first: bool) -> Connection:
        return WeightedConnection(self.shape.width)


class WeightedConnection(Connection):
    """w x + delta."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.constants = {"weight": 1.0}

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        return close(self.weight.to(kept.dtype) * kept, delta)
