"""Which arm trains more reliably? Failed runs, counted by arm: a verdict of its own beside quality."""

from collections.abc import Mapping
from typing import Literal

from ablate.spec import Strict
from ablate.study.stats.fisher import Count, Tested, against

StabilityWord = Literal["more stable", "less stable", "no failures", "undecided", "waiting"]


class Stability(Strict):
    """Fisher's exact test on (failed, finished) of the arm against the baseline.

    A run failed that diverged, or that finished on a plateau; `diverged` counts both.

    `p_adjusted` is Holm's over the arms of the study. Runs out of memory are a cost and count in neither.
    """

    word: StabilityWord
    diverged: int
    runs: int  # finished or diverged
    baseline_diverged: int
    baseline_runs: int
    p: float | None
    p_adjusted: float | None


def judge_stability(counts: Mapping[str, Count], baseline: str, alpha: float) -> dict[str, Stability]:
    """One stability verdict for each arm beside the baseline.

    `counts` are, by arm, the failed among the diverged and finished runs; `alpha` is for all arms together.
    """
    base = counts[baseline]
    return {
        name: Stability(
            word=_word(counts[name], base, tested, alpha),
            diverged=counts[name].hits,
            runs=counts[name].runs,
            baseline_diverged=base.hits,
            baseline_runs=base.runs,
            p=tested.p,
            p_adjusted=tested.p_adjusted,
        )
        for name, tested in against(counts, baseline).items()
    }


def _word(arm: Count, baseline: Count, tested: Tested, alpha: float) -> StabilityWord:
    if tested.p_adjusted is None:
        return "waiting"
    if tested.p_adjusted <= alpha:
        return "less stable" if (tested.difference or 0) > 0 else "more stable"
    no_finished = arm.hits == arm.runs or baseline.hits == baseline.runs
    return "undecided" if arm.hits or baseline.hits or no_finished else "no failures"
