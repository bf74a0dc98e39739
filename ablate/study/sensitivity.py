"""How much a wrong learning rate costs: the sensitivity of Wortsman et al. 2023 (arXiv:2309.14322)."""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

DRAWS = 9_999
Losses = Mapping[tuple[float, int], float | None]  # by (rate, seed); None: the run failed


class Sensitivity(BaseModel):
    """The mean over rates of min(l, l0) - l*, in nats, with its interval over seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None  # None with a single seed
    high: float | None
    best_rate: float
    best_loss: float  # l*: the least over rates of the mean over seeds
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    failed: int  # runs that diverged: they count as l0
    clipped: int  # runs that ended above l0, the failed among them


class SensitivityDifference(BaseModel):
    """first - second, over the same rates and seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None
    high: float | None


def sensitivity(losses: Losses, start: float, alpha: float = 0.05) -> Sensitivity:
    """Over the rates and seeds that `losses` holds, each rate with each seed. `start` is l0, the loss before
    training.

    Losses are averaged over seeds before l* is taken, since the least of noisy numbers is too small (with one
    seed, as in the paper, it makes no difference). The interval is a percentile bootstrap over seeds, which
    keeps the rates of a seed together; with fewer than six seeds it is too narrow, and says little.

    Raises ValueError for a missing run, fewer than two rates, or a number that is not finite.
    """
    table, rates, seeds = _table(losses, start)
    values = [loss for loss in losses.values() if loss is not None]
    failed = len(losses) - len(values)
    means = table.mean(1)
    low, high = _interval(lambda chosen: _sensitivity(table[:, chosen]), len(seeds), alpha)
    return Sensitivity(
        value=_sensitivity(table),
        low=low,
        high=high,
        best_rate=rates[int(means.argmin())],
        best_loss=float(means.min()),
        rates=rates,
        seeds=seeds,
        failed=failed,
        clipped=failed + sum(loss > start for loss in values),
    )


def sensitivity_difference(
    first: Losses, second: Losses, starts: tuple[float, float], alpha: float = 0.05
) -> SensitivityDifference:
    """Seeds are drawn for both arms at once. Raises ValueError as `sensitivity` does, and where rates or
    seeds are not the same."""
    a, *places = _table(first, starts[0])
    b, *others = _table(second, starts[1])
    if places != others:
        raise ValueError(f"the arms were not run at the same rates and seeds: {places} and {others}")
    low, high = _interval(
        lambda chosen: _sensitivity(a[:, chosen]) - _sensitivity(b[:, chosen]), a.shape[1], alpha
    )
    return SensitivityDifference(value=_sensitivity(a) - _sensitivity(b), low=low, high=high)


def _table(losses: Losses, start: float) -> tuple[NDArray[np.float64], tuple[float, ...], tuple[int, ...]]:
    """min(l, l0) by rate and seed (rates, seeds), and what the rows and columns are."""
    rates = tuple(sorted({rate for rate, _ in losses}))
    seeds = tuple(sorted({seed for _, seed in losses}))
    absent = [f"rate {r:g} seed {s}" for r, s in product(rates, seeds) if (r, s) not in losses]
    if absent:
        raise ValueError(f"sensitivity: every rate needs every seed; missing are {', '.join(absent)}")
    if len(rates) < 2:
        raise ValueError(f"sensitivity: needs two rates or more; there are {len(rates)}")
    values = [start if losses[r, s] is None else losses[r, s] for r, s in product(rates, seeds)]
    table = np.array(values, dtype=np.float64).reshape(len(rates), len(seeds))
    if not (np.isfinite(table).all() and np.isfinite(start)):
        raise ValueError("sensitivity: a loss is not finite; give None for a run that failed")
    return np.minimum(table, start), rates, seeds


def _sensitivity(table: NDArray[np.float64]) -> float:
    means = table.mean(1)
    return float((means - means.min()).mean())


def _interval(
    statistic: Callable[[NDArray[np.intp]], float], seeds: int, alpha: float
) -> tuple[float | None, float | None]:
    """`statistic` is of the numbers of the chosen seeds."""
    if seeds < 2:
        return None, None
    found = stats.bootstrap(
        (np.arange(seeds),),
        statistic,
        n_resamples=DRAWS,
        vectorized=False,
        confidence_level=1 - alpha,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
