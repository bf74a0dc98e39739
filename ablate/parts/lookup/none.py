"""Nothing is looked up."""

from typing import ClassVar

from ablate.registry import lookup
from ablate.spec import Shape


@lookup("none", paper="arXiv:1706.03762")
class NoLookup:
    """The layer reads nothing by its tokens."""

    place: ClassVar[str] = "nowhere"  # so it needs none of what a `Lookup` remembers

    def __init__(self, shape: Shape):
        pass
