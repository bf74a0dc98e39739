"""Measures on trained weights, beyond what training itself reports. One file for each.

A measure is supplied with nothing and called with a trained run and its prepared text; it returns what it
found, under names of its own. A user's own measure is a file named in `parts`.
"""

from typing import NamedTuple


class Found(NamedTuple):
    metrics: dict[str, float]  # `heldout/loss`
    vectors: dict[str, list[float]]  # `heldout/by_document`
