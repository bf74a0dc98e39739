"""Nothing is looked up."""

from typing import ClassVar

from ablate.registry import lookup
from ablate.spec import Shape


@lookup("none", paper="arXiv:1706.03762")
class NoLookup:
    """The layer reads nothing by its tokens. No `Lookup`, since no group of layers is to remember any."""

    place: ClassVar[str] = "nowhere"

    def __init__(self, shape: Shape):
        pass
