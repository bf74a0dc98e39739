"""Plain, a residual stream."""

from ablate.parts.connection import ResidualStream
from ablate.registry import stream
from ablate.spec import Shape


@stream("plain", paper="arXiv:1512.03385")
class Plain(ResidualStream):
    """x <- x + f(x) (He et al. 2015)."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
