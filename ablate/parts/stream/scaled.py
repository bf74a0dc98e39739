"""Scaled, a residual stream."""

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor

from ablate.parts.connection import Close, Connection, ResidualStream, State
from ablate.registry import stream
from ablate.spec import Shape


@stream("scaled", paper="arXiv:2405.04324")
class Scaled(ResidualStream):
    """x <- x + m f(x), with the number `multiplier` (Granite's residual_multiplier; MiniCPM, where it is
    1.4 / sqrt(L))."""

    def __init__(self, shape: Shape, *, multiplier: Annotated[float, Gt(0)] = 0.22):
        super().__init__(shape)
        self.multiplier = multiplier

    def connection(self, branch: int, first: bool) -> Connection:
        return ScaledConnection(self.multiplier)


class ScaledConnection(Connection):
    """x + m delta."""

    def __init__(self, multiplier: float):
        super().__init__()
        self.multiplier = multiplier

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        return close(kept, self.multiplier * delta)
