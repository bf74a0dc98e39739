"""How often does an arm learn the task? For skills, where a run either solves it or does not.

Between those two there is hardly anything, so a mean over seeds describes no run, and its t interval means
little. What is counted instead is P(solved): the share of seeds that solve the task.

That a metric is of this kind is declared in study.yaml before the first run, by naming a metric that is
called `.../solved`, as in `metric: skill/solved`: each run has 0 or 1 there. It is never found out from the
data that are judged. Whether the declaration was apt can be seen beside it: `between` counts the runs whose
exact match is neither near 0 nor at the threshold.
"""

from typing import Literal

import pandas as pd

from ablate.spec import Strict
from ablate.study.design.claim import declared
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.doubts import doubts
from ablate.study.stats.fisher import Count, against, fewest_seeds, share_interval
from ablate.study.stats.outcomes import Outcomes, Role, read_outcomes

SolvedWord = Literal["solves more", "solves less", "undecided", "waiting"]
LOW = 0.1  # an exact match below this is counted as not having begun to solve the task


class Solved(Strict):
    """P(solved) of one arm, with its interval of Clopper and Pearson (1934), which covers with at least
    1 - alpha at any number of runs.

    Diverged runs count as not solved. Runs out of memory, a cost, and missing runs count in neither number.
    """

    arm: str
    solved: int
    runs: int  # finished or diverged
    share: float | None  # None without a run
    low: float
    high: float
    between: int | None = None  # runs neither here nor there; None: the frame does not say


class SolvedContrast(Strict):
    """The arm against the baseline: Fisher's exact test on (solved, not solved), Holm's p over all arms.

    There is no interval for the difference: the usual ones are not exact at so few runs (of Newcombe's, at
    eight, up to 7.7 % exclude 0 without cause; of Agresti and Caffo's, 5.3 %).
    """

    arm: str
    word: SolvedWord
    difference: float | None  # P(solved) of the arm less that of the baseline
    p: float | None
    p_adjusted: float | None


class Verdicts(Strict):
    """Verdicts on how many seeds solved a task."""

    baseline: str
    metric: str
    alpha: float
    arms: dict[str, Solved]  # the baseline too
    contrasts: dict[str, SolvedContrast]
    fewest: int  # seeds at which all against none would be decided


def judge_solved(
    frame: pd.DataFrame,
    baseline: str,
    metric: str = "skill/solved",
    alpha: float = 0.05,
    role: Role = "test",
    threshold: float = 0.9,
) -> Verdicts:
    """The verdicts on a metric of 0 and 1. `frame` is as `ablate.study.stats.outcomes` wants it; if it has an
    exact match too (`skill/exact` beside `skill/solved`), runs between 0.1 and `threshold` are counted.

    Raises ValueError for a metric that is not 0 or 1, and as `read_outcomes` does.
    """
    if not declared(metric):
        raise ValueError(f"metric: {metric!r} does not count solved runs; name one that ends in /solved")
    outcomes = {
        name: arm for name, arm in read_outcomes(frame, baseline, metric, role).items() if not arm.refused
    }
    if baseline not in outcomes:
        raise ValueError(f"baseline: every run of {baseline!r} was refused")
    for arm in outcomes.values():
        wrong = {seed: value for seed, value in arm.values.items() if value not in (0.0, 1.0)}
        if wrong:
            seed, value = next(iter(wrong.items()))
            raise ValueError(f"arm {arm.arm!r}, seed {seed}: {metric} is {value:g}, and must be 0 or 1")
    exact = metric.removesuffix("solved") + "exact"
    arms = {}
    for name, arm in outcomes.items():
        between = None
        if exact in frame.columns:
            mine = frame[(frame["arm"] == name) & (frame["role"] == role) & (frame["status"] == "finished")]
            between = int(mine[exact].between(LOW, threshold, inclusive="left").sum())
        arms[name] = share_of(arm, alpha).model_copy(update={"between": between})
    return Verdicts(
        baseline=baseline,
        metric=metric,
        alpha=alpha,
        arms=arms,
        contrasts=contrasts(outcomes, arms, baseline, alpha),
        fewest=fewest_seeds(max(len(outcomes) - 1, 1), alpha),
    )


def share_of(arm: Outcomes, alpha: float) -> Solved:
    """P(solved) of an arm whose values are 0 and 1."""
    solved, runs = int(sum(arm.values.values())), len(arm.values) + len(arm.diverged)
    low, high = share_interval(solved, runs, alpha)
    return Solved(
        arm=arm.arm, solved=solved, runs=runs, share=solved / runs if runs else None, low=low, high=high
    )


def contrasts(
    outcomes: dict[str, Outcomes], arms: dict[str, Solved], baseline: str, alpha: float
) -> dict[str, SolvedContrast]:
    """Every other arm against the baseline; one that has runs missing, or none at all, waits."""
    counts = {
        name: Count(
            arm=name,
            hits=arm.solved,
            runs=arm.runs,
            waiting="runs are missing" if outcomes[name].missing or not arm.runs else "",
        )
        for name, arm in arms.items()
    }
    made = {}
    for name, (difference, p, adjusted) in against(counts, baseline).items():
        word: SolvedWord = "waiting" if adjusted is None else "undecided"
        if adjusted is not None and adjusted <= alpha:
            word = "solves more" if (difference or 0) > 0 else "solves less"
        made[name] = SolvedContrast(arm=name, word=word, difference=difference, p=p, p_adjusted=adjusted)
    return made


def in_words(comparison: Comparison, solved: Verdicts, placebo: str | None = None) -> Comparison:
    """The comparison on a metric of solved runs, with the words of `judge_solved`: its intervals, made for
    numbers, are taken out, since for counts they do not hold. `placebo` as in `compare`."""
    verdicts = tuple(_verdict(verdict, comparison, solved) for verdict in comparison.verdicts)
    return comparison.model_copy(
        update={"verdicts": verdicts, "margin": None, "warnings": tuple(doubts(verdicts, placebo))}
    )


def _verdict(verdict: Verdict, comparison: Comparison, solved: Verdicts) -> Verdict:
    contrast, arm, base = (
        solved.contrasts[verdict.arm],
        solved.arms[verdict.arm],
        solved.arms[solved.baseline],
    )
    waits = verdict.word == "waiting" or contrast.word == "waiting"
    better = "solves more" if comparison.better == "higher" else "solves less"
    counts = f"{arm.arm} solved {arm.solved} of {arm.runs}, {base.arm} {base.solved} of {base.runs}"
    reason = verdict.reason if verdict.word == "waiting" else "no run finished or diverged"
    if not waits:
        reason = f"{counts}: Fisher's p by Holm over the arms {contrast.p_adjusted:.2g}"
    return Verdict(
        arm=verdict.arm,
        word="waiting"
        if waits
        else "undecided"
        if contrast.word == "undecided"
        else "better"
        if contrast.word == better
        else "worse",
        within_margin=False,
        conditional=False,  # runs that diverged are in the counts
        reason=reason,
        method="fisher",
        difference=None if waits else contrast.difference,
        n=min(arm.runs, base.runs),
        mean=None if waits else arm.share,
        p=None if waits else contrast.p,
        missing=verdict.missing,
        baseline_missing=verdict.baseline_missing,
        stability=verdict.stability,
    )
