"""An effect in tokens: how much more or less text would give the baseline the same change of loss."""

from typing import Literal

import numpy as np
import pandas as pd

from ablate.spec import Strict

BUDGETS = (0.5, 2.0)  # times the study's, at which the baseline is trained for the effect in tokens
ALL_BUDGETS = sorted((1.0, *BUDGETS))


class TokenSlope(Strict):
    """The baseline's loss against its budget: nats for each doubling of the tokens, with a t interval.

    Blank (None) where a budget has not been run, or the interval of the slope contains 0.
    """

    status: Literal["measured", "blank"]
    slope: float | None
    low: float | None
    high: float | None
    alpha: float
    n: int  # runs
    reason: str


class TokenEffect(Strict):
    """The budget, as a multiple of the baseline's, that would give the baseline the arm's loss.

    1.3 means: the arm is worth 30 % more tokens. None where it is blank.
    """

    multiple: float | None
    low: float | None
    high: float | None
    reason: str


def token_slope(frame: pd.DataFrame, metric: str, alpha: float = 0.05) -> TokenSlope:
    """Fit `loss ~ log2(budget) + seed` to the baseline's runs at 0.5, 1 and 2 times its budget.

    `frame` has `budget` (multiples of the study's), `seed`, `status` and the metric. Each budget is a whole
    training run with its own full schedule: a shorter part of one long run is not the same.
    """
    import statsmodels.api as sm

    absent = [column for column in ("budget", "seed", "status", metric) if column not in frame.columns]
    if absent:
        raise ValueError(
            f"the frame lacks the columns {', '.join(absent)}; it has {', '.join(frame.columns)}"
        )
    runs = frame[(frame["status"] == "finished") & frame[metric].notna()]

    def blank(reason: str) -> TokenSlope:
        return TokenSlope(
            status="blank", slope=None, low=None, high=None, alpha=alpha, n=len(runs), reason=reason
        )

    budgets = set(runs["budget"].astype(float))
    lacking = [f"{budget:g}" for budget in ALL_BUDGETS if budget not in budgets]
    if lacking:
        return blank(f"the baseline has not been trained at {', '.join(lacking)} times the budget")
    twice = runs[runs.duplicated(["budget", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f"duplicated record: budget {row['budget']:g}, seed {row['seed']}; keep one of them")
    seeds = sorted(set(runs["seed"]))
    blocks = np.column_stack([(runs["seed"] == seed).to_numpy(dtype=float) for seed in seeds])
    design = np.column_stack([np.log2(runs["budget"].to_numpy(dtype=float)), blocks])
    fit = sm.OLS(runs[metric].to_numpy(dtype=float), design).fit()
    if fit.df_resid < 1:
        return blank("too few runs for an interval on the slope")
    slope, (low, high) = float(fit.params[0]), np.asarray(fit.conf_int(alpha))[0]
    if low <= 0 <= high:
        return blank(f"the slope cannot be told from 0: {slope:.4g} [{low:.4g}, {high:.4g}] a doubling")
    return TokenSlope(
        status="measured", slope=slope, low=float(low), high=float(high), alpha=alpha, n=len(runs), reason=""
    )


def effect_in_tokens(
    difference: float | None, low: float | None, high: float | None, slope: TokenSlope
) -> TokenEffect:
    """Turn a difference arm - baseline, with its interval, into a multiple of the baseline's tokens.

    multiple = 2 ** (difference / slope). Its interval takes the extremes over both intervals, so it covers
    with at least one minus the sum of their alphas, however the two depend on each other.
    """
    if slope.status == "blank" or slope.slope is None or slope.low is None or slope.high is None:
        return TokenEffect(multiple=None, low=None, high=None, reason=slope.reason)
    if difference is None or low is None or high is None:
        return TokenEffect(multiple=None, low=None, high=None, reason="the verdict has no interval")
    corners = [end / nats for end in (low, high) for nats in (slope.low, slope.high)]
    return TokenEffect(
        multiple=_double(difference / slope.slope),
        low=_double(min(corners)),
        high=_double(max(corners)),
        reason="" if max(map(abs, corners)) <= 1 else "reaches beyond the budgets that were run",
    )


def _double(doublings: float) -> float | None:
    """2 ** doublings; None where that is no number any more."""
    return float(2.0**doublings) if abs(doublings) < 100 else None
