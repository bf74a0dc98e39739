"""The gap of each arm against the length of training: the same seeds, ended at shares of the budget."""

from typing import TYPE_CHECKING

import pandas as pd

from ablate.spec import Strict
from ablate.study.design.study import Study
from ablate.study.judge.compare import Comparison, compare
from ablate.study.judge.rates import one_rate

if TYPE_CHECKING:
    from collections.abc import Mapping


class BudgetGap(Strict):
    """The difference arm - baseline at one share of the budget, with its interval; None where it waits.

    At the whole budget it is the verdict's own. Intervals are simultaneous over the arms at one budget.
    """

    arm: str
    budget: float
    mean: float | None  # of the arm's finished runs
    difference: float | None
    low: float | None
    high: float | None
    n: int


def budget_gaps(
    shorter: pd.DataFrame,
    comparison: Comparison,
    study: Study,
    alpha: float,
    stopped: "Mapping[str, int]",
) -> tuple[BudgetGap, ...]:
    """The gaps at every budget, arm by arm, at the seeds that each arm has.

    `shorter` are the rows of role `budget`. An arm whose runs there are missing waits. Raises ValueError as
    `compare` does.
    """
    comparisons: dict[float, Comparison] = {}
    for share in study.budgets[:-1]:
        rows = one_rate(shorter[shorter["budget"] == share].assign(role="test"), study.tune)
        if rows.empty:
            continue
        comparisons[share] = compare(
            rows, comparison.baseline, study.metric, None, study.interval, alpha,
            study.declared_looks, study.better, stopped=stopped,
        )  # fmt: skip
    comparisons[1.0] = comparison
    return tuple(
        BudgetGap(
            arm=verdict.arm,
            budget=share,
            mean=verdict.mean,
            difference=verdict.difference,
            low=verdict.low,
            high=verdict.high,
            n=verdict.n,
        )
        for arm in comparison.verdicts
        for share, at in comparisons.items()
        for verdict in at.verdicts
        if verdict.arm == arm.arm
    )
