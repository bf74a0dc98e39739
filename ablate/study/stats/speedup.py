"""How many times the baseline's cost gives an arm's loss, from both trained at several budgets.

Losses are curves of the budget, B of the baseline and A of the arm, each interpolated by seed through its
budgets. A speed-up of m in tokens says that

    m >= 1   the arm needs 1/m of the tokens for the loss of the whole baseline:  B(1) = A(1/m)
    m < 1    the baseline needs m of the tokens for the loss of the whole arm:    B(m) = A(1)

so no curve is followed beyond its budgets. For any m the difference of the two sides is one number a seed; m
is in the interval where Student's t on these numbers does not tell their mean from 0. That is Fieller's
argument (1954, JRSS B 16, 175): it holds at any m and needs no slope to be large.

In FLOPs or seconds the speed-up is that in tokens times the baseline's cost of a token over the arm's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

_POINTS = 201  # at which the interval is searched before its ends are made exact
NEAREST = 3  # budgets that a curve is interpolated through, in the logarithm: a parabola


class SpeedUp(NamedTuple):
    """A multiple with its interval; an end is None where the budgets do not reach so far."""

    multiple: float | None
    low: float | None
    high: float | None
    reason: str = ""

    @property
    def word(self) -> str:
        """better or worse at equal cost where the interval excludes 1, else undecided."""
        if self.reason:
            return "undecided"
        if self.low is not None and self.low > 1:
            return "better"
        return "worse" if self.high is not None and self.high < 1 else "undecided"


def speed_up(
    baseline: NDArray[np.float64],
    arm: NDArray[np.float64],
    budgets: NDArray[np.float64],
    cost: NDArray[np.float64] | float = 1.0,
    alpha: float = 0.05,
) -> SpeedUp:
    """The speed-up of the arm.

    `baseline` and `arm` are losses, the less the better, (seeds, budgets); `budgets` (budgets,) are ascending
    shares of the tokens, the last 1. `cost` is the baseline's cost of a token over the arm's, one number or
    one for each seed. Raises ValueError for fewer than two seeds or budgets.
    """
    seeds = len(arm)
    if seeds < 2 or len(budgets) < 2:
        given = f"{seeds} and {len(budgets)}"
        raise ValueError(f"a speed-up needs two seeds and two budgets or more, not {given}")
    shift = np.broadcast_to(np.log2(cost), (seeds,))
    doublings = np.log2(budgets)

    def sides(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Baseline less arm (points, seeds), where the speed-up is 2 ** x (points,)."""
        tokens = np.atleast_1d(x)[:, None] - shift
        theirs = _interpolated(baseline, doublings, np.minimum(tokens, 0.0))
        return theirs - _interpolated(arm, doublings, np.minimum(-tokens, 0.0))

    critical = float(stats.t.isf(alpha / 2, seeds - 1))
    reach = -float(doublings[0])
    first, last = float(shift.mean()) - reach, float(shift.mean()) + reach
    grid = np.linspace(first, last, _POINTS)
    mean = sides(grid).mean(1)
    if not (np.diff(mean) < 0).all():
        return SpeedUp(None, None, None, "a loss does not fall with the budget everywhere")
    low = _where(lambda x: _t(sides(x)) - critical, grid)
    high = _where(lambda x: _t(sides(x)) + critical, grid)
    middle = _where(lambda x: sides(x).mean(1), grid)
    if middle is None:
        end = f"more than {2**last:.3g}" if mean[-1] > 0 else f"less than {2**first:.3g}"
        return SpeedUp(None, _power(low), _power(high), f"{end}, which the budgets do not reach")
    return SpeedUp(_power(middle), _power(low), _power(high))


def _t(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Student's t of each row (points, seeds)."""
    error = values.std(1, ddof=1) / values.shape[1] ** 0.5
    t: NDArray[np.float64] = values.mean(1) / np.maximum(error, 1e-300)
    return t


def _where(
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]], grid: NDArray[np.float64]
) -> float | None:
    """Where a function that falls over the grid passes 0, the first time. None where it does not."""
    positive = value(grid) > 0
    if not positive[0] or positive.all():
        return None
    at = int(np.argmin(positive))
    return float(optimize.brentq(lambda x: float(value(np.array([x]))[0]), grid[at - 1], grid[at]))


def _power(x: float | None) -> float | None:
    return None if x is None else float(2.0**x)


def _interpolated(
    losses: NDArray[np.float64], doublings: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The loss of each seed at its own x (points, seeds), by Lagrange's polynomial through the nearest of its
    losses (seeds, budgets)."""
    order = np.argsort(np.abs(doublings - x[..., None]), axis=-1, kind="stable")
    near = np.sort(order[..., :NEAREST], axis=-1)
    at = doublings[near]
    values = np.take_along_axis(np.broadcast_to(losses, (*x.shape, len(doublings))), near, axis=-1)
    total = np.zeros(x.shape)
    for n in range(near.shape[-1]):
        others = [m for m in range(near.shape[-1]) if m != n]
        weight = np.prod([(x - at[..., m]) / (at[..., n] - at[..., m]) for m in others], axis=0)
        total += weight * values[..., n]
    return total
