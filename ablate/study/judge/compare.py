"""The judge: one verdict for each arm against the baseline, read off one simultaneous interval.

    the interval excludes 0                       better or worse (`within_margin` if wholly inside it)
    it contains 0 and lies within +- margin       equivalent
    otherwise                                     undecided
    runs are missing, or no declared look is due  waiting

The rules and their reasons stand in docs/statistics.md.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from ablate.study.design.claim import is_exact
from ablate.study.judge.doubts import doubts, unequal_noise
from ablate.study.judge.stability import Stability, judge_stability
from ablate.study.judge.verdict import (
    NO_NOISE,
    Better,
    Comparison,
    Contrast,
    Verdict,
    VerdictWord,
    at_seeds,
    by_seed_and_arm,
    survivors,
)
from ablate.study.stats import intervals
from ablate.study.stats.documents import document_error
from ablate.study.stats.fisher import Count
from ablate.study.stats.intervals import Estimate, Variance
from ablate.study.stats.outcomes import Outcomes, Role, read_outcomes, seed_list
from ablate.study.stats.power import Setting, seeds_for_half_width

NONE_STOPPED: Mapping[str, int] = {}

__all__ = ["Comparison", "Contrast", "Verdict", "compare", "document_error", "survivors"]


def compare(
    frame: pd.DataFrame,
    baseline: str,
    metric: str,
    margin: float | None,
    variance: Variance,
    alpha: float = 0.05,
    looks: tuple[int, ...] = (),
    better: Better = "lower",
    role: Role = "test",
    placebo: str | None = None,
    stopped: Mapping[str, int] = NONE_STOPPED,
) -> Comparison:
    """Judge every arm of `frame` against `baseline` on `metric`.

    `margin` is the least difference that matters, in the unit of the metric; None where nothing can be
    called equivalent. `variance` is declared before the runs. `looks` are the declared numbers of seeds
    at which a verdict may be given, with alpha split evenly over them; without any there is one look, at
    all the seeds in the frame. Beyond the last look only its first seeds, in ascending order, are read.
    The family is every arm in the frame beside the baseline, also one whose verdict waits.
    `stopped` maps an arm that was decided at an earlier look to its number of seeds: it is judged at them.
    An optional column `by_document`, arrays (documents, 2) of summed loss and tokens, adds the error over
    documents.

    Raises ValueError for a frame or an argument that cannot be judged (see `read_outcomes`).
    """
    _check_arguments(margin, variance, alpha, looks, better)
    everything = read_outcomes(frame, baseline, metric, role)
    refused = tuple(arm for arm, runs in everything.items() if runs.refused)
    if baseline in refused:
        raise ValueError(f"the baseline {baseline!r} was refused: there is nothing to compare with")
    declared = {arm: runs for arm, runs in everything.items() if arm not in refused}
    if len(declared) < 2:
        raise ValueError(f"every arm was refused: there is nothing to compare with {baseline!r}")
    base = declared[baseline]
    unpaired = {arm for arm, o in declared.items() if o.seeds and base.seeds and not o.seeds & base.seeds}

    seeds = _seeds([runs for arm, runs in declared.items() if arm not in unpaired], looks)
    look, upcoming = _look(len(seeds), looks)
    family = [arm for arm in declared if arm != baseline]
    spent = alpha / max(1, len(looks))

    def at(n: int | None) -> _Judge:
        """The judge at the look of n seeds; an arm that stopped before has its own seeds alone."""
        last = {arm: min(stopped.get(arm, len(seeds)), n or len(seeds)) for arm in declared}
        runs = {
            arm: o.among(_own_seeds(o, n if looks else None) if arm in unpaired else seeds[: last[arm]])
            for arm, o in declared.items()
        }
        return _Judge(runs, baseline, unpaired, variance, spent, n, upcoming, bool(looks))

    latest = at(look)
    looked = {arm: stopped.get(arm, look) for arm in family}
    judges = {look: latest} | {n: at(n) for n in {*looked.values()} - {look}}
    verdicts: list[Verdict] = []
    tied: list[str] = []
    for arm in family:
        judged = judges[looked[arm]]
        estimate = judged.estimates.get(arm)
        if estimate is not None and estimate.error == 0 and not is_exact(metric):
            tied.append(arm)
            estimate = None
        verdicts.append(judged.verdict(arm, estimate, margin, better))
    if "by_document" in frame.columns:
        rows = frame[frame["role"] == role]
        verdicts = [_with_documents(v, rows, baseline, latest.runs, unpaired) for v in verdicts]
    return Comparison(
        baseline=baseline,
        metric=metric,
        better=better,
        margin=margin,
        variance=variance,
        alpha=alpha,
        looks=looks,
        look=look,
        alpha_spent=spent,
        seeds=tuple(seeds[: look or None]),
        refused=refused,
        runs=tuple(latest.runs.values()),
        verdicts=tuple(verdicts),
        warnings=(
            *(f"{arm}: {NO_NOISE.format(metric)}" for arm in tied),
            *(unequal_noise(latest.noise(), spent) if variance == "pooled" else ()),
            *doubts(tuple(verdicts), placebo),
        ),
    )


class _Judge:
    """The runs under judgement, and the rules that need all of them at once."""

    def __init__(
        self,
        runs: dict[str, Outcomes],
        baseline: str,
        unpaired: set[str],
        variance: Variance,
        alpha: float,
        look: int | None,
        upcoming: int | None,
        planned: bool,
    ) -> None:
        self.runs = runs
        self.base = runs[baseline]
        self.family = [arm for arm in runs if arm != baseline]
        self.unpaired = unpaired
        self.variance = variance
        self.alpha = alpha
        self.look = look
        self.upcoming = upcoming
        self.planned = planned  # the looks were declared: an unpaired arm needs as many seeds too

    def waits(self, arm: str) -> str:
        """Why the verdict on `arm` waits; empty if it does not."""
        if self.look is None:
            return f"waiting for the look at {self.upcoming} seeds"
        missing = [
            f"{name} seeds {seed_list(set(runs.missing))} ({', '.join(sorted(set(runs.missing.values())))})"
            for name, runs in ((arm, self.runs[arm]), (self.base.arm, self.base))
            if runs.missing
        ]
        if not self.runs[arm].seeds:
            missing.append(f"{arm} (no runs)")
        here = len(self.runs[arm].seeds)
        if self.planned and arm in self.unpaired and here < self.look:
            missing.append(f"{arm} has {here} of {self.look} seeds")
        return f"waiting for missing runs: {'; '.join(missing)}" if missing else ""

    def pairs(self, arm: str) -> list[int]:
        """The seeds at which arm and baseline both finished."""
        return sorted(self.runs[arm].values.keys() & self.base.values.keys())

    def differences(self, arm: str) -> pd.Series:
        """arm - baseline by seed, over the pairs."""
        pairs = self.pairs(arm)
        a, b = at_seeds(self.runs[arm], pairs), at_seeds(self.base, pairs)
        real = np.abs(a - b) > intervals.rounding_of(a, b) if pairs else np.zeros(0, dtype=bool)
        return pd.Series(np.where(real, a - b, 0.0), index=pairs, dtype=float)

    def noise(self) -> dict[str, tuple[float, int]]:
        """The standard deviation of the differences by seed, and how many there are, of each judged arm."""
        each = {arm: self.differences(arm) for arm in self.ready()}
        return {arm: (float(values.std()), len(values)) for arm, values in each.items()}

    def ready(self) -> list[str]:
        """The paired arms that can be judged now: nothing missing, two pairs or more."""
        return [
            arm
            for arm in self.family
            if arm not in self.unpaired and not self.waits(arm) and len(self.pairs(arm)) >= 2
        ]

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The simultaneous interval of every arm that can be judged now.

        Every arm owns alpha / family; Dunnett gets the sum of what its arms own. So arms that wait or
        that Welch judges keep their share, and the union bound holds over all of them.
        """
        each = self.alpha / len(self.family)
        ready = self.ready()
        estimates: dict[str, Estimate] = {}
        if self.variance == "pooled" and ready:
            table = by_seed_and_arm([self.base, *(self.runs[arm] for arm in ready)])
            estimates = intervals.pooled(table, self.base.arm, each * len(ready))
        elif self.variance == "paired":
            for arm in ready:
                pairs = self.pairs(arm)
                estimates[arm] = intervals.paired(
                    at_seeds(self.runs[arm], pairs), at_seeds(self.base, pairs), each
                )
        for arm in self.family:
            if arm in self.unpaired and not self.waits(arm):
                a = np.array(list(self.runs[arm].values.values()))
                b = np.array(list(self.base.values.values()))
                if min(len(a), len(b)) >= 2:
                    estimates[arm] = intervals.welch(a, b, each)
        return estimates

    @cached_property
    def stability(self) -> dict[str, Stability]:
        waits = {arm: "" if arm == self.base.arm else self.waits(arm) for arm in self.runs}
        counts = {arm: _diverged(runs, waits[arm]) for arm, runs in self.runs.items()}
        return judge_stability(counts, self.base.arm, self.alpha)

    @cached_property
    def sign_flips(self) -> dict[str, float]:
        ready = self.ready()
        if not ready:
            return {}
        return intervals.sign_flip_p(pd.DataFrame({arm: self.differences(arm) for arm in ready}))

    def verdict(
        self,
        arm: str,
        estimate: Estimate | None,
        margin: float | None,
        better: Better,
    ) -> Verdict:
        runs = self.runs[arm]
        lost = runs.failed | self.base.failed
        differences = self.differences(arm)
        waiting = self.waits(arm)
        word = _word(estimate, margin, better)
        spread = float(differences.std()) if len(differences) >= 2 else None
        if arm in self.unpaired:
            spread = None
        needed = None
        if word == "undecided" and estimate and margin:
            sd = estimate.error * estimate.n**0.5
            variance = "paired" if arm in self.unpaired else self.variance
            needed = seeds_for_half_width(margin, Setting(len(self.family), sd, variance, self.alpha))
        return Verdict(
            arm=arm,
            word="waiting" if waiting else word,
            within_margin=bool(
                word in ("better", "worse")
                and estimate
                and margin
                and -margin <= estimate.low
                and estimate.high <= margin
            ),
            conditional=bool(lost),
            reason=waiting or self._sentence(arm, word, estimate, margin, needed),
            method="welch" if arm in self.unpaired else self.variance,
            difference=estimate.difference if estimate else None,
            low=estimate.low if estimate else None,
            high=estimate.high if estimate else None,
            n=estimate.n if estimate else len(differences),
            mean=float(np.mean(list(runs.values.values()))) if runs.values and not waiting else None,
            sd=spread,
            correlation=None if arm in self.unpaired else self._correlation(arm),
            seeds_needed=needed,
            p=estimate.p if estimate else None,
            p_sign_flip=self.sign_flips.get(arm),
            missing=runs.missing,
            baseline_missing=self.base.missing,
            stability=self.stability[arm],
            look=self.look,
        )

    def _correlation(self, arm: str) -> float | None:
        pairs = self.pairs(arm)
        a, b = at_seeds(self.runs[arm], pairs), at_seeds(self.base, pairs)
        if len(pairs) < 3 or min(np.ptp(a), np.ptp(b)) <= intervals.rounding_of(a, b):
            return None
        return float(np.corrcoef(a, b)[0, 1])

    def _sentence(
        self, arm: str, word: VerdictWord, estimate: Estimate | None, margin: float | None, needed: int | None
    ) -> str:
        runs = self.runs[arm]
        lost = [
            f"{name} {what} at seeds {seed_list(list(seeds))}"
            for name, outcomes in ((arm, runs), (self.base.arm, self.base))
            for what, seeds in (
                ("diverged", outcomes.diverged),
                ("ran out of memory", outcomes.out_of_memory),
            )
            if seeds
        ]
        among = f"; among the finished runs only: {', '.join(lost)}" if lost else ""
        if estimate is None and len(self.pairs(arm)) >= 2:
            return f"{arm} against {self.base.arm}: the differences are the same at every seed{among}"
        if estimate is None:
            return f"{arm} and {self.base.arm} have fewer than two finished runs to compare{among}"
        by = f"{estimate.difference:+.4g} [{estimate.low:+.4g}, {estimate.high:+.4g}]"
        if arm in self.unpaired:
            among += "; no common seeds, so Welch's unpaired interval"
        if word == "equivalent":
            return f"{arm} and {self.base.arm} differ by less than {margin:g}: {by}{among}"
        if word == "undecided":
            seeds = f"; about {needed} seeds make the interval as narrow as the margin" if needed else ""
            return f"{arm} and {self.base.arm} cannot be told apart: {by}{seeds}{among}"
        inside = margin and -margin <= estimate.low and estimate.high <= margin
        small = f", by less than the margin {margin:g}" if inside else ""
        return f"{arm} is {word} than {self.base.arm}{small}: {by}{among}"


def _word(estimate: Estimate | None, margin: float | None, better: Better) -> VerdictWord:
    """Read the verdict off the interval; nothing else decides it."""
    if estimate is None:
        return "undecided"
    if estimate.low > 0 or estimate.high < 0:
        return "better" if (estimate.high < 0) == (better == "lower") else "worse"
    if margin is not None and -margin <= estimate.low and estimate.high <= margin:
        return "equivalent"
    return "undecided"


def _seeds(arms: list[Outcomes], looks: tuple[int, ...]) -> list[int]:
    """The seeds of the study, ascending. With declared looks a seed counts once any arm has begun it: the
    rows of a later look may stand in the frame already."""
    return sorted({seed for arm in arms for seed in (arm.begun if looks else arm.seeds)})


def _own_seeds(arm: Outcomes, look: int | None) -> list[int]:
    return sorted(arm.seeds)[: look or None]


def _look(seeds: int, looks: tuple[int, ...]) -> tuple[int | None, int | None]:
    """The look that is due, else the one to wait for."""
    if not looks:
        return seeds, None
    if seeds in looks or seeds > max(looks):
        return min(seeds, max(looks)), None
    return None, min(n for n in looks if n > seeds)


def _diverged(runs: Outcomes, waiting: str) -> Count:
    hits = len(runs.diverged) + len(runs.plateau)
    return Count(arm=runs.arm, hits=hits, runs=len(runs.diverged) + len(runs.values), waiting=waiting)


def _with_documents(
    verdict: Verdict, rows: pd.DataFrame, baseline: str, runs: dict[str, Outcomes], unpaired: set[str]
) -> Verdict:
    """Add the error over documents, of the loss averaged over the pairs; nothing where it is not stored, or
    there is but one document."""
    if verdict.word == "waiting" or verdict.arm in unpaired:
        return verdict
    seeds = runs[verdict.arm].values.keys() & runs[baseline].values.keys()
    averages = []
    for arm in (verdict.arm, baseline):
        mine = rows[(rows["arm"] == arm) & rows["seed"].isin(seeds)]["by_document"]
        arrays = [
            np.asarray(cell, dtype=float) for cell in mine if isinstance(cell, list | tuple | np.ndarray)
        ]
        if not seeds or len(arrays) < len(seeds):
            return verdict
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"arm {arm!r}: by_document has different shapes at different seeds")
        if any(not np.array_equal(array[:, 1], arrays[0][:, 1]) for array in arrays):
            raise ValueError(f"arm {arm!r}: by_document counts different tokens at different seeds")
        averages.append(np.mean(arrays, axis=0))
    if np.count_nonzero(averages[0][:, 1]) < 2:
        return verdict
    return verdict.model_copy(update={"documents": document_error(*averages)})


def _check_arguments(
    margin: float | None, variance: str, alpha: float, looks: tuple[int, ...], better: str
) -> None:
    if margin is not None and not (np.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be a positive number or None, not {margin}")
    if variance not in ("paired", "pooled"):
        raise ValueError(f"variance: {variance!r} is unknown; allowed are paired, pooled")
    if better not in ("lower", "higher"):
        raise ValueError(f"better: {better!r} is unknown; allowed are lower, higher")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    if list(looks) != sorted(set(looks)) or any(n < 2 for n in looks):
        raise ValueError(f"looks must be ascending numbers of seeds, two or more each, not {looks}")
