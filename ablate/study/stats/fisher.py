"""So many of so many runs, by arm: Fisher's exact test against the baseline, and Holm's p over the arms.

`against` serves the verdicts on diverged runs (`stability`) and solved runs (`solved`), and claims on both.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

from ablate.spec import Strict

Cells = tuple[int, int]  # so many runs, and so many others


class Count(Strict):
    """So many of the runs of an arm. While it waits, the numbers are not read."""

    arm: str
    hits: int
    runs: int
    waiting: str = ""

    @property
    def share(self) -> float:
        return self.hits / self.runs

    @property
    def cells(self) -> Cells:
        return self.hits, self.runs - self.hits


class Tested(NamedTuple):
    """One arm against the baseline; None where one of the two waits or has no run."""

    difference: float | None  # of the shares, arm - baseline
    p: float | None
    p_adjusted: float | None  # Holm's over the arms


def fisher(first: Cells, second: Cells) -> float:
    """The two-sided p of Fisher's exact test."""
    return float(stats.fisher_exact([first, second]).pvalue)


def holm(arms: Mapping[str, Cells | None], baseline: Cells) -> dict[str, tuple[float | None, float | None]]:
    """p and Holm's p of each arm.

    An arm that waits (None) has neither, and keeps its place in the family, so that the others do not change
    when it arrives.
    """
    from statsmodels.stats.multitest import multipletests

    raw = {name: None if cells is None else fisher(cells, baseline) for name, cells in arms.items()}
    family = [1.0 if p is None else p for p in raw.values()]
    if len(family) > 1 and min(family) < 1:  # else nothing to adjust: spares a call that collects garbage
        family = multipletests(family, method="holm")[1].tolist()
    return {name: (p, None if p is None else q) for (name, p), q in zip(raw.items(), family, strict=True)}


def against(counts: Mapping[str, Count], baseline: str) -> dict[str, Tested]:
    """Every other arm against the baseline, whose count is among `counts`."""
    base = counts[baseline]
    others = {name: count for name, count in counts.items() if name != baseline}
    cells = {name: None if count.waiting or base.waiting else count.cells for name, count in others.items()}
    return {
        name: Tested(
            others[name].share - base.share if others[name].runs and base.runs else None, p, adjusted
        )
        for name, (p, adjusted) in holm(cells, base.cells).items()
    }


def share_interval(solved: int, runs: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper and Pearson's for solved / runs; everything, without a run. Raises ValueError."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= solved <= runs:
        raise ValueError(f"{solved} of {runs} runs cannot be solved")
    if runs == 0:
        return 0.0, 1.0
    low, high = proportion_confint(solved, runs, alpha, method="beta")
    return float(low), float(high)


def fewest_seeds(arms: int, alpha: float = 0.05) -> int:
    """The least number of seeds at which an arm that always solves the task and a baseline that never does
    are told apart, with `arms` arms beside the baseline: 2 / C(2n, n) <= alpha / arms."""
    n = 1
    while 2 / math.comb(2 * n, n) > alpha / arms:
        n += 1
    return n
