"""Measures on trained weights, beyond what training itself reports. One file for each.

A measure is supplied with nothing and called with a trained run and its prepared text; it returns what it
found, under names of its own. A user's own measure is a file named in `parts`. Its class may say more:

`reads_splits`  the sealed splits that it reads, such as `("heldout",)`: each use is counted
`metrics`       the names of its metrics, without its own before them, `*` for what varies: a study that
                asks for another is refused before its runs
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from ablate.registry import measure


class Measured(NamedTuple):
    """What a measure found on one trained model."""

    metrics: dict[str, float]  # `heldout/loss`
    vectors: dict[str, list[float]]  # `heldout/by_document`


def reads_heldout(name: str) -> bool:
    """Whether the measure of that name reads the held-out split."""
    return "heldout" in getattr(measure[name].make, "reads_splits", ())


def metrics_of(name: str) -> tuple[str, ...]:
    """The metrics of a measure as patterns, under their whole names."""
    return tuple(f"{name}/{pattern}" for pattern in getattr(measure[name].make, "metrics", ("*",)))


def beyond(patterns: Iterable[str], metrics: Iterable[str]) -> list[str]:
    """The metrics that none of the patterns names."""
    patterns = tuple(patterns)
    return [name for name in metrics if not any(fnmatchcase(name, pattern) for pattern in patterns)]
