"""What the judge says: a verdict on each arm, a contrast of any two, a comparison of all on one metric."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from ablate.spec import Strict
from ablate.study.design.claim import is_exact
from ablate.study.judge.stability import Stability
from ablate.study.stats import intervals
from ablate.study.stats.documents import DocumentError
from ablate.study.stats.intervals import Estimate, Variance
from ablate.study.stats.outcomes import Outcomes, by_arm, seed_list

NO_NOISE = "{} is the same at every seed and not declared exact: no noise to judge by"
VerdictWord = Literal["better", "worse", "equivalent", "undecided", "waiting"]
Better = Literal["lower", "higher"]
Method = Literal["paired", "pooled", "welch", "fisher"]


class Verdict(Strict):
    """What the study says of one arm. Differences are arm - baseline, in the unit of the metric.

    While the verdict waits, no effect is given: neither difference nor interval nor p.
    """

    arm: str
    word: VerdictWord
    within_margin: bool  # better or worse, but by less than the margin
    conditional: bool  # runs diverged or ran out of memory: quality is judged among the finished
    reason: str  # one sentence
    method: Method
    difference: float | None = None
    low: float | None = None  # of the simultaneous interval
    high: float | None = None
    n: int = 0  # pairs of finished runs; for Welch the runs of the smaller side
    look: int | None = None  # the number of seeds at which it was judged; None between looks
    mean: float | None = None  # of the arm's finished runs
    sd: float | None = None  # of the differences by seed
    correlation: float | None = None  # of arm and baseline over the seeds
    seeds_needed: int | None = None  # for a half-width equal to the margin, where undecided
    p: float | None = None  # unadjusted
    p_sign_flip: float | None = None  # adjusted over the family: a check on the interval, not the verdict
    missing: dict[int, str] = Field({})  # seed -> why
    baseline_missing: dict[int, str] = Field({})
    stability: Stability
    documents: DocumentError | None = None


class Contrast(Strict):
    """A difference first - second between any two arms, with its interval; None where it has to wait.

    A claim's ratio or level stands in the same place; a level has no second.
    """

    first: str
    second: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    alpha: float  # the interval covers with 1 - alpha; for an arm and the baseline: all such at once
    reason: str = ""  # why it waits, or what runs it is without

    @classmethod
    def waiting(cls, first: str, second: str, alpha: float, reason: str, n: int = 0) -> "Contrast":
        """A contrast without numbers, and why."""
        return cls(first=first, second=second, n=n, alpha=alpha, reason=reason)

    @classmethod
    def of(
        cls, first: str, second: str, estimate: Estimate, alpha: float, reason: str = "", zero: float = 0.0
    ) -> "Contrast":
        """The contrast that `estimate` is of; `zero` is added to it, as the number that a level was tested
        against."""
        return cls(
            first=first,
            second=second,
            difference=estimate.difference + zero,
            low=estimate.low + zero,
            high=estimate.high + zero,
            p=estimate.p,
            n=estimate.n,
            alpha=alpha,
            reason=reason,
        )


class Comparison(Strict):
    """All verdicts of a study on one metric, with the runs that they rest on."""

    baseline: str
    metric: str
    better: Better
    margin: float | None
    variance: Variance
    alpha: float  # of the whole study
    looks: tuple[int, ...]  # declared numbers of seeds
    look: int | None  # the last number of seeds at which this was judged; None between looks
    alpha_spent: float  # at this look, for all arms together
    seeds: tuple[int, ...]
    refused: tuple[str, ...]  # arms that belong to the plan
    runs: tuple[Outcomes, ...]  # the baseline first
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]

    def verdict(self, arm: str) -> Verdict:
        """Raises KeyError, naming the arms there are."""
        return by_arm(self.verdicts, arm, "no verdict on {}")

    def outcomes(self, arm: str) -> Outcomes:
        """Raises KeyError, naming the arms there are."""
        return by_arm(self.runs, arm, "no arm {} in this study")

    def contrast(self, first: str, second: str, alpha: float) -> Contrast:
        """The difference between two arms. Against the baseline it is the verdict's own interval, so that
        the two cannot contradict each other; between two other arms it is made at `alpha`."""
        a, b = self.outcomes(first), self.outcomes(second)
        if first == second:
            raise ValueError(f"{first!r} is compared with itself")
        if self.baseline in (first, second):
            verdict = self.verdict(second if first == self.baseline else first)
            sign = -1 if first == self.baseline else 1
            low, high = (verdict.low, verdict.high) if sign == 1 else (verdict.high, verdict.low)
            return Contrast(
                first=first,
                second=second,
                difference=_times(sign, verdict.difference),
                low=_times(sign, low),
                high=_times(sign, high),
                p=verdict.p,
                n=verdict.n,
                alpha=self.alpha_spent,
                reason=verdict.reason if verdict.difference is None else survivors(a, b),
            )
        if waiting := self._reason_to_wait(a, b):
            return Contrast.waiting(first, second, alpha, waiting)
        estimate = self._estimate(a, b, alpha)
        if estimate is not None and estimate.error == 0 and not is_exact(self.metric):
            return Contrast.waiting(first, second, alpha, NO_NOISE.format(self.metric))
        if estimate is None:
            return Contrast.waiting(first, second, alpha, "fewer than two finished runs to compare")
        return Contrast.of(first, second, estimate, alpha, survivors(a, b))

    def _reason_to_wait(self, first: Outcomes, second: Outcomes) -> str:
        if self.look is None:
            return "waiting for the next declared look"
        waits = [f"{arm.arm}: seeds {seed_list(set(arm.missing))}" for arm in (first, second) if arm.missing]
        return f"waiting for missing runs ({'; '.join(waits)})" if waits else ""

    def _estimate(self, first: Outcomes, second: Outcomes, alpha: float) -> Estimate | None:
        common = sorted(first.values.keys() & second.values.keys())
        if not first.seeds & second.seeds:
            a, b = np.array(list(first.values.values())), np.array(list(second.values.values()))
            return intervals.welch(a, b, alpha) if min(len(a), len(b)) >= 2 else None
        if len(common) < 2:
            return None
        if self.variance == "pooled":
            whole = [run for run in self.runs if not run.missing and len(run.values) >= 2]
            return intervals.pooled_contrast(by_seed_and_arm(whole), first.arm, second.arm, alpha)
        return intervals.paired(at_seeds(first, common), at_seeds(second, common), alpha)


def survivors(*arms: Outcomes) -> str:
    """What must be said of a number that runs which failed are not in; empty where none did."""
    failed = {seed for arm in arms for seed in arm.failed}
    return f"among the runs that finished, without seeds {seed_list(failed)}" if failed else ""


def at_seeds(arm: Outcomes, seeds: list[int]) -> NDArray[np.float64]:
    """The arm's values at these seeds, in their order."""
    return np.array([arm.values[seed] for seed in seeds], dtype=float)


def by_seed_and_arm(arms: list[Outcomes]) -> pd.DataFrame:
    """The values of the metric, with one row for each seed and one column for each arm."""
    return pd.DataFrame({arm.arm: pd.Series(arm.values, dtype=float) for arm in arms})


def _times(sign: int, value: float | None) -> float | None:
    return None if value is None else sign * value
