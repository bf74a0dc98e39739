"""Runs that ended on a plateau: the rate was too high, yet they finished, with the loss of single tokens.

Such a run did not diverge, and its mean with a good run would enter the choice of the rate. It is found by

    the level   its loss is at or above that of single tokens (an n-gram line, where it is known), or of a run
                that was found by its spread
    the spread  its loss is above that of another seed at the same rate by more than SPREAD times the noise
    the cliff   its loss is above those of the arm's best lower rate by more than CLIFF times the noise

and it must be worse than every run of the arm at its best lower rate: else the arm just learns slowly.
The noise is the standard deviation of one run at the NEAR_BEST rates of each arm that came furthest, since
runs are quieter at low rates and on the plateau. It is read off the lower quartile of these cells: that holds
while fewer than three quarters of them have a run on a plateau.
"""

import math
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy import stats

SPREAD = 10.0  # times the noise of one run
CLIFF = 40.0  # no parabola through so steep a rise says where its vertex is
NEAR_BEST = 3
NEAR_UNIGRAM = 0.1  # of the way from the unigram's loss to the bigram's

_Losses = Mapping[
    tuple[str, float, int], float
]  # (arm, rate, seed) -> loss of a finished run; less is better


class PlateauRun(NamedTuple):
    """A tuning run that ended on a plateau."""

    arm: str
    rate: float
    seed: int
    loss: float


class Plateaus(NamedTuple):
    """The runs on plateaus, and the least loss that is surely one; None where none is known."""

    runs: tuple[PlateauRun, ...]
    level: float | None
    noise: float  # of one run; NaN with a single seed


def plateau_level(lines: Mapping[str, float]) -> float | None:
    """The loss in nats from which a run has learned no more than single tokens.

    `lines` maps `unigram` and `bigram` to their losses; None where one is not known.
    """
    if "unigram" not in lines or "bigram" not in lines:
        return None
    return lines["unigram"] - NEAR_UNIGRAM * (lines["unigram"] - lines["bigram"])


def find_plateaus(losses: _Losses, level: float | None = None) -> Plateaus:
    """Find the tuning runs that ended on a plateau. `level` is that of `plateau_level`, where it is known."""
    cells: dict[tuple[str, float], dict[int, float]] = {}
    for (arm, rate, seed), loss in losses.items():
        cells.setdefault((arm, rate), {})[seed] = loss
    noise = _noise(cells)
    reach = 0.0 if math.isnan(noise) else SPREAD * noise
    apart = {
        (arm, rate, seed)
        for (arm, rate), runs in cells.items()
        for seed, loss in runs.items()
        if reach and loss - min(runs.values()) > reach and loss > _best_below(cells, arm, rate, -math.inf)
    }
    levels = [losses[place] - reach for place in apart] + ([] if level is None else [level])
    lowest = min(levels, default=math.inf)
    cliff = CLIFF / SPREAD * reach or math.inf
    lost = []
    for (arm, rate, seed), loss in losses.items():
        below = _best_below(cells, arm, rate, math.inf)
        if (arm, rate, seed) in apart or loss >= max(lowest, below) or loss > below + cliff:
            lost.append(PlateauRun(arm, rate, seed, loss))
    return Plateaus(tuple(lost), min(levels, default=None), noise)


def _noise(cells: Mapping[tuple[str, float], Mapping[int, float]]) -> float:
    """The standard deviation of one run around the mean of its arm and rate, by their lower quartile."""
    by_arm: dict[str, list[Mapping[int, float]]] = {}
    for (arm, _), runs in cells.items():
        by_arm.setdefault(arm, []).append(runs)
    best = [sorted(each, key=lambda runs: min(runs.values()))[:NEAR_BEST] for each in by_arm.values()]
    spreads = []
    for runs in chain.from_iterable(best):
        if (n := len(runs)) > 1:
            quartile = math.sqrt(
                stats.chi2.ppf(0.25, n - 1) / (n - 1)
            )  # of an sd over n where the true one is 1
            spreads.append(float(np.std(list(runs.values()), ddof=1)) / quartile)
    return float(np.quantile(spreads, 0.25)) if spreads else math.nan


def _best_below(
    cells: Mapping[tuple[str, float], Mapping[int, float]], arm: str, rate: float, lowest: float
) -> float:
    """The worst loss of the arm at its best lower rate; `lowest` where there is no lower one."""
    lower = [
        (sum(runs.values()) / len(runs), max(runs.values()))
        for (name, other), runs in cells.items()
        if name == arm and other < rate
    ]
    return min(lower)[1] if lower else lowest
