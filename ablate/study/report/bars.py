"""Intervals as small pictures inside the table of verdicts."""

from dataclasses import dataclass

from ablate.amounts import interval_text
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.report.phrasing import decimals
from ablate.study.report.summary import span


@dataclass(frozen=True)
class IntervalBar:
    """An interval to be drawn in a table, in percent of its cell: the verdict's own, on the figure's axis."""

    zero: float
    left: float
    right: float
    middle: float
    margin: tuple[float, float] | None
    text: str


def bar(comparison: Comparison, verdict: Verdict) -> IntervalBar | None:
    """None while the verdict waits."""
    if verdict.low is None or verdict.high is None or verdict.difference is None:
        return None
    axis = span(comparison)

    def at(value: float) -> float:
        return round(100 * axis.share(value), 3)

    margin = comparison.margin
    return IntervalBar(
        zero=at(0.0),
        left=at(verdict.low),
        right=at(verdict.high),
        middle=at(verdict.difference),
        margin=(at(-margin), at(margin)) if margin else None,
        text=interval_text(verdict.low, verdict.high, decimals(comparison)),
    )
