"""Metrics beside the primary one: described, not decided, with the false discovery rate kept down."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.spec import Strict
from ablate.study.stats import intervals
from ablate.study.stats.outcomes import read_outcomes


class Description(Strict):
    """One arm on one descriptive metric: arm - baseline with a plain (not simultaneous) interval."""

    arm: str
    metric: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None  # Benjamini and Hochberg, over every arm and metric
    noteworthy: bool  # p_adjusted <= alpha


def describe(
    frame: pd.DataFrame, baseline: str, metrics: Sequence[str], alpha: float = 0.05
) -> tuple[Description, ...]:
    """Describe every arm on `metrics`: paired by seed over the finished pairs there are.

    Benjamini and Hochberg 1995 (JRSS B 57, 289) holds the expected share of false entries among the
    noteworthy ones at `alpha`. Nothing here is a verdict.
    """
    from statsmodels.stats.multitest import multipletests

    estimates: list[tuple[str, str, int, intervals.Estimate | None]] = []
    for metric in metrics:
        outcomes = read_outcomes(frame, baseline, metric)
        base = outcomes[baseline]
        for arm, runs in outcomes.items():
            if arm == baseline or runs.refused:
                continue
            pairs = sorted(runs.values.keys() & base.values.keys())
            a, b = (np.array([side.values[seed] for seed in pairs], dtype=float) for side in (runs, base))
            estimates.append(
                (arm, metric, len(pairs), intervals.paired(a, b, alpha) if len(pairs) >= 2 else None)
            )
    tested = [estimate.p for *_, estimate in estimates if estimate]
    adjusted = iter(multipletests(tested, alpha, method="fdr_bh")[1].tolist() if tested else [])
    descriptions = []
    for arm, metric, n, estimate in estimates:
        p = next(adjusted) if estimate else None
        descriptions.append(
            Description(
                arm=arm,
                metric=metric,
                n=n,
                difference=estimate.difference if estimate else None,
                low=estimate.low if estimate else None,
                high=estimate.high if estimate else None,
                p=estimate.p if estimate else None,
                p_adjusted=p,
                noteworthy=p is not None and p <= alpha,
            )
        )
    return tuple(descriptions)
