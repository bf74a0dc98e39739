"""Depth-scaled, a residual stream."""

import math
from typing import Any

from torch import Tensor

from ablate.parts.connection import Close, Connection, ResidualStream, State
from ablate.registry import stream
from ablate.spec import Shape


@stream("depth_scaled", paper="https://huggingface.co/reflection/Beam-1.0-501B-A23B")
class DepthScaled(ResidualStream):
    """x <- sqrt(1 - 1/j) x + sqrt(1/j) f(x), the branches counted from j = 2 (Beam).

    The weights keep the variance where x and f(x) are independent and of equal variance: after branch j the
    stream is the sum of j such terms over sqrt(j).
    """

    def __init__(self, shape: Shape):
        super().__init__(shape)

    def connection(self, branch: int, first: bool) -> Connection:
        return DepthScaledConnection(branch + 2)


class DepthScaledConnection(Connection):
    """sqrt(1 - 1/j) x + sqrt(1/j) delta."""

    def __init__(self, j: int):
        super().__init__()
        self.kept, self.added = math.sqrt((j - 1) / j), math.sqrt(1 / j)

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        return close(self.kept * kept, self.added * delta)
