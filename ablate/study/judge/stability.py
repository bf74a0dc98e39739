"""Which arm trains more reliably? Diverged runs, counted by arm: a verdict of its own beside quality."""

from collections.abc import Mapping
from typing import Literal

from ablate.spec import Strict
from ablate.study.stats.fisher import holm

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
    """One stability verdict for each arm. `alpha` is for all the arms together."""
    cells = {
        name: None if arm.waits or baseline.waits else (arm.diverged, arm.finished)
        for name, arm in arms.items()
    }
    found = holm(cells, (baseline.diverged, baseline.finished))
    return {
        name: Stability(
            word="waiting" if adjusted is None else _word(arms[name], baseline, adjusted <= alpha),
            diverged=arms[name].diverged,
            runs=arms[name].diverged + arms[name].finished,
            baseline_diverged=baseline.diverged,
            baseline_runs=baseline.diverged + baseline.finished,
            p=p,
            p_adjusted=adjusted,
        )
        for name, (p, adjusted) in found.items()
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
