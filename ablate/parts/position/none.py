"""The absent position."""

from ablate.parts.base import Position
from ablate.registry import position


@position("none", paper="arXiv:2203.16634")
class NoPosition(Position):
    """The causal mask alone tells the order (NoPE; Haviv et al. 2022)."""
