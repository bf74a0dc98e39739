"""Nothing is looked up."""

from ablate.parts.lookups import Lookup
from ablate.registry import lookup


@lookup("none", paper="arXiv:1706.03762")
class NoLookup(Lookup):
    """The layer reads nothing by its tokens."""

    place = "nowhere"
