"""How much a wrong learning rate costs: the sensitivity of Wortsman et al. 2023 (arXiv:2309.14322)."""

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ablate.spec import Strict
from ablate.study.stats import intervals

Losses = Mapping[tuple[float, int], float | None]  # by (rate, seed); None: the run failed


class Sensitivity(Strict):
    """The mean over rates of min(l, l0) - l*, in nats, with its interval over seeds."""

    value: float
    low: float | None  # None with a single seed
    high: float | None
    best_rate: float
    best_loss: float  # l*: the least over rates of the mean over seeds
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    failed: int  # runs that diverged: they count as l0
    clipped: int  # runs that ended above l0, the failed among them


class SensitivityDifference(Strict):
    """first - second, over the same rates and seeds."""

    value: float
    low: float | None  # None with a single seed
    high: float | None
    p: float | None


def sensitivity(losses: Losses, start: float, alpha: float = 0.05) -> Sensitivity:
    """Over the rates and seeds that `losses` holds, each rate with each seed. `start` is l0, the loss before
    training.

    Losses are averaged over seeds before l* is taken, since the least of noisy numbers is too small (with one
    seed, as in the paper, it makes no difference). The interval is a percentile bootstrap over seeds, which
    keeps the rates of a seed together; with fewer than six seeds it is too narrow, and says little. Arms are
    compared by `sensitivity_difference`.

    Raises ValueError for a missing run, fewer than two rates, or a number that is not finite.
    """
    table, rates, seeds = _table(losses, start)
    values = [loss for loss in losses.values() if loss is not None]
    failed = len(losses) - len(values)
    means = table.mean(1)
    low, high = intervals.bootstrap(table.shape[1], lambda chosen: _drawn(table, chosen), alpha) or (
        None,
        None,
    )
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
    """With Student's t interval over seeds, paired, for claims are read off it.

    At the best rate of each arm the sensitivity is a mean over seeds of mean(min(l, l0)) - min(l, l0) at that
    rate; those numbers are what the interval is made of. That the best rate was chosen on the same runs moves
    it by less than its error. Simulated with two equal arms, it excludes 0 in 4 to 6 % of studies at 2 to 16
    seeds; a percentile bootstrap does so in 47 % at two seeds, 25 % at three, and 11 to 18 % at six.

    Raises ValueError as `sensitivity` does, and where rates or seeds are not the same.
    """
    a, *places = _table(first, starts[0])
    b, *others = _table(second, starts[1])
    if places != others:
        raise ValueError(f"the arms were not run at the same rates and seeds: {places} and {others}")
    value = _sensitivity(a) - _sensitivity(b)
    if a.shape[1] < 2:
        return SensitivityDifference(value=value, low=None, high=None, p=None)
    estimate = intervals.paired(_by_seed(a), _by_seed(b), alpha)
    return SensitivityDifference(value=value, low=estimate.low, high=estimate.high, p=estimate.p)


def _by_seed(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds,): numbers whose mean is the sensitivity."""
    by_seed: NDArray[np.float64] = table.mean(0) - table[table.mean(1).argmin()]
    return by_seed


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
    return float(_drawn(table, np.arange(table.shape[1])))


def _drawn(table: NDArray[np.float64], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """The sensitivity of the chosen seeds (..., seeds), for each choice."""
    means = table[:, chosen].mean(-1)
    drawn: NDArray[np.float64] = (means - means.min(0)).mean(0)
    return drawn
