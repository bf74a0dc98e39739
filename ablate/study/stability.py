"""Which arm trains more reliably? Diverged runs, counted by arm: a verdict of its own beside quality."""

from collections.abc import Mapping
from typing import Literal

from scipy import stats

from ablate.spec import Strict

StabilityWord = Literal["more stable", "less stable", "no failures", "undecided", "waiting"]


class Stability(Strict):
    """Fisher's exact test on (diverged, finished) of the arm against the baseline.

    `p_adjusted` is Holm's over the arms of the study. Runs out of memory are a cost and count in neither.
    """

    word: StabilityWord
    diverged: int
    runs: int  # finished or diverged
    baseline_diverged: int
    baseline_runs: int
    p: float | None
    p_adjusted: float | None


class Counts(Strict):
    """The outcomes of one arm that tell of stability."""

    diverged: int
    finished: int
    waits: bool = False  # runs are still missing


def judge_stability(arms: Mapping[str, Counts], baseline: Counts, alpha: float) -> dict[str, Stability]:
    """One stability verdict for each arm. `alpha` is for all the arms together.

    An arm that waits keeps its place in the family, so that the others do not change when it arrives.
    """
    from statsmodels.stats.multitest import multipletests

    waits = {name: arm.waits or baseline.waits for name, arm in arms.items()}
    p = {
        name: float(
            stats.fisher_exact([[arm.diverged, arm.finished], [baseline.diverged, baseline.finished]]).pvalue
        )
        for name, arm in arms.items()
        if not waits[name]
    }
    family = [p.get(name, 1.0) for name in arms]
    if any(value < 1 for value in family):  # else nothing to adjust: spares the call, which collects garbage
        family = multipletests(family, alpha, method="holm")[1].tolist()
    adjusted = dict(zip(arms, family, strict=True))
    return {
        name: Stability(
            word="waiting" if waits[name] else _word(arm, baseline, adjusted[name] <= alpha),
            diverged=arm.diverged,
            runs=arm.diverged + arm.finished,
            baseline_diverged=baseline.diverged,
            baseline_runs=baseline.diverged + baseline.finished,
            p=p.get(name),
            p_adjusted=adjusted[name] if name in p else None,
        )
        for name, arm in arms.items()
    }


def _word(arm: Counts, baseline: Counts, decided: bool) -> StabilityWord:
    if not decided and (arm.diverged or baseline.diverged or not arm.finished or not baseline.finished):
        return "undecided"
    if not decided:
        return "no failures"
    share = arm.diverged / (arm.diverged + arm.finished)
    return (
        "less stable"
        if share > baseline.diverged / (baseline.diverged + baseline.finished)
        else "more stable"
    )
