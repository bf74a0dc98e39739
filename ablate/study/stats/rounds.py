"""Tune by rounds: a few runs where the best rate of an arm lies, in place of a whole grid for every arm.

The baseline takes the whole grid with the first tuning seed, every other arm the best rate of the baseline
and a rate on either side, half a step of the grid away. From there all arms do the same, until nothing is
wanted:

    the best rate so far and its neighbours, at most a quarter decade away, are run with every tuning seed
    (so a winner at the edge widens, and half-way points refine); where those three rates are so flat that
    noise would choose among them, one run a quarter decade further out on either side

The rate is the vertex of the least-squares parabola through what was run within half a decade of the best. A
rate at which a run failed or ended on a plateau is not eligible, as in `ablate.study.stats.tuning`, and a
best rate beside one is shared by all arms as there. Every arm may make equally many runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablate.study.stats.plateau import find_plateaus
from ablate.study.stats.tuning import (
    FAILED,
    FINEST_STEP,
    Choice,
    Tuning,
    rates_in_words,
    round_rate,
    share_rates,
    tuning_outcomes,
    tuning_rows,
    tuning_warnings,
)

_BEYOND = 3  # steps of the grid that the rates reach beyond either of its ends
_FLAT = 3.0  # times the noise of a run: where the three rates bend less, noise would choose among them
REACH = 2  # rates to either side of the best that its parabola takes in


class Wanted(NamedTuple):
    """A tuning run that the rounds so far ask for."""

    arm: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Search:
    """What all arms search alike by: the grid, ascending, the tuning seeds, and the rates between."""

    grid: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """How many runs every arm may make."""
        return (len(self.grid) + 4) * len(self.seeds)

    @property
    def fewest(self) -> int:
        """How many runs an arm makes at least."""
        return 3 * len(self.seeds)

    @property
    def lattice(self) -> list[float]:
        """All rates that any arm may run: those of the grid, beyond it, and half-way points of wide steps."""
        low, high = self.grid[1] / self.grid[0], self.grid[-1] / self.grid[-2]
        steps = [
            *(self.grid[0] / low**n for n in range(_BEYOND, 0, -1)),
            *self.grid,
            *(self.grid[-1] * high**n for n in range(1, _BEYOND + 1)),
        ]
        between = [math.sqrt(a * b) for a, b in pairwise(steps) if b / a > FINEST_STEP * (1 + 1e-9)]
        beyond = {*steps} - {*self.grid}
        return sorted([*self.grid, *map(round_rate, [*between, *beyond])])


def tune_by_rounds(
    frame: pd.DataFrame,
    search: Search,
    arms: Sequence[str],
    metric: str = "validation/loss",
    better: str = "lower",
    nested: bool = False,
    level: float | None = None,
) -> tuple[Tuning, tuple[Wanted, ...]]:
    """Choose a rate for every arm, the baseline first, or say which runs are wanted before.

    `frame` holds the tuning runs so far, of one corpus; it may be empty. `level` is as in `tune`. Returns the
    choices and all runs that the search has asked for, those that have ended among them. A choice waits while
    one of its runs is missing. Raises ValueError as `tune` does.
    """
    rows = tuning_rows(frame, metric)
    sign = -1.0 if better == "higher" else 1.0
    statuses, losses = tuning_outcomes(rows, metric, sign)
    plateaus = find_plateaus(losses, level)
    lost = {(run.arm, run.rate, run.seed) for run in plateaus.runs}
    lost |= {place for place, status in statuses.items() if status in FAILED}

    def of(arm: str) -> "_Arm":
        return _Arm(
            arm,
            search,
            {(rate, seed): loss for (name, rate, seed), loss in losses.items() if name == arm},
            {(rate, seed) for name, rate, seed in lost if name == arm},
            plateaus.noise,
        )

    baseline = of(arms[0])
    first = baseline.search_from([(rate, search.seeds[0]) for rate in search.grid])
    choices, wanted = [first], [Wanted(arms[0], *place) for place in sorted(baseline.wanted)]
    for name in arms[1:]:
        arm = of(name)
        if not first.nested:
            waiting = f"waiting for the rate of the baseline {arms[0]}"
            choices.append(arm.choice("none" if first.kind == "none" else "waiting", waiting))
            continue
        choices.append(arm.search_from(arm.around(first.nested[0])))
        wanted += [Wanted(name, *place) for place in sorted(arm.wanted)]
    settled = all(choice.kind in ("vertex", "boundary", "none") for choice in choices)
    signed = tuple(
        choice.model_copy(update={"means": {rate: sign * mean for rate, mean in choice.means.items()}})
        for choice in choices
    )
    tuning = Tuning(
        choices=share_rates(signed, nested) if settled else signed,
        extend=(),
        seeds=search.seeds,
        warnings=tuple(tuning_warnings(search.seeds, plateaus.runs)),
        plateaus=tuple(run._replace(loss=sign * run.loss) for run in plateaus.runs),
        level=None if plateaus.level is None else sign * plateaus.level,
    )
    return tuning, tuple(wanted)


Place = tuple[float, int]  # rate, seed


class _Arm:
    """The search of one arm, made again from its first runs with what has come of them."""

    def __init__(
        self, name: str, search: Search, losses: Mapping[Place, float], lost: set[Place], noise: float
    ) -> None:
        self.name, self.search, self.noise = name, search, noise
        self.losses, self.lost = losses, lost
        self.lattice = search.lattice
        self.wanted: set[Place] = set()

    def around(self, rate: float, reach: int = 1) -> list[Place]:
        """A rate of the lattice and those beside it, with every seed."""
        at = self.lattice.index(rate)
        beside = self.lattice[max(0, at - reach) : at + reach + 1]
        return [(rate, seed) for rate in beside for seed in self.search.seeds]

    @property
    def failed(self) -> set[float]:
        """The rates at which a run that the search asked for failed."""
        return {rate for rate, seed in self.lost & self.wanted}

    @property
    def missing(self) -> list[Place]:
        """The runs that are wanted and have not ended; none at a rate that has failed already."""
        failed = self.failed
        ended = {*self.losses, *self.lost}
        return sorted(place for place in self.wanted if place not in ended and place[0] not in failed)

    def by_rate(self) -> dict[float, list[float]]:
        """The losses at each eligible rate, of the runs that the search asked for."""
        failed = self.failed
        by_rate: dict[float, list[float]] = {}
        for rate, seed in sorted(self.wanted & self.losses.keys()):
            if rate not in failed:
                by_rate.setdefault(rate, []).append(self.losses[rate, seed])
        return by_rate

    def search_from(self, first: Sequence[Place]) -> Choice:
        """Ask for runs until nothing more is wanted, or some are missing."""
        more = {*first}
        while more - self.wanted:
            self.wanted |= more
            if self.missing:
                return self.choice("waiting", f"waiting for the tuning runs at {_places(self.missing)}")
            if len(self.wanted) > self.search.runs:
                return self.choice("edge", f"no best rate was found within {self.search.runs} runs")
            means = {rate: float(np.mean(losses)) for rate, losses in self.by_rate().items()}
            if not means:
                lower = [rate for rate in self.lattice if rate < min(rate for rate, _ in self.wanted)]
                if not lower:
                    break
                more = {(lower[-1], seed) for seed in self.search.seeds}
                continue
            best = min(means, key=means.__getitem__)
            at = self.lattice.index(best)
            if at in (0, len(self.lattice) - 1):
                return self.choice("edge", f"the best rate {best:g} is as far from the grid as rates go")
            more = {*self.around(best)}
            if not more - self.wanted and self.flat(means, at):
                outer = {at - REACH, at + REACH} & {*range(len(self.lattice))}
                more |= {(self.lattice[n], self.search.seeds[0]) for n in outer}
        return self.chosen()

    def flat(self, means: Mapping[float, float], at: int) -> bool:
        """Whether the best rate and its neighbours bend too little for noise not to choose among them."""
        below, best, above = (means.get(self.lattice[n]) for n in (at - 1, at, at + 1))
        if below is None or best is None or above is None:
            return False  # beside a failed rate there is no parabola
        return not below + above - 2 * best >= _FLAT * self.noise  # nor where the noise is not known

    def chosen(self) -> Choice:
        losses = self.by_rate()
        means = {rate: float(np.mean(values)) for rate, values in losses.items()}
        if not means:
            return self.choice("none", "no rate is eligible: at every one some tuning run failed")
        best = min(means, key=means.__getitem__)
        at = self.lattice.index(best)
        beside = [self.lattice[at - 1], self.lattice[at + 1]]
        around = sorted((rate for rate in beside if rate in means), key=means.__getitem__)
        nested = (best, *around[:1])
        if len(around) < 2:
            gone = [rate for rate in beside if rate not in means]
            stands = f"the best rate {best:g} stands beside {rates_in_words(gone)}, where a tuning run failed"
            return self.choice("boundary", stands, best, nested)
        near = [rate for rate in self.lattice[max(0, at - REACH) : at + REACH + 1] if rate in means]
        weights = [len(losses[rate]) for rate in near]
        rate = least_squares_vertex([(rate, means[rate]) for rate in near], weights, best, *beside)
        reason = f"vertex of a parabola in log rate through {len(near)} rates around {best:g}"
        return self.choice("vertex", reason, rate, nested)

    def choice(
        self, kind: str, reason: str, rate: float | None = None, nested: tuple[float, ...] = ()
    ) -> Choice:
        return Choice.model_validate(
            {
                "arm": self.name,
                "kind": kind,
                "rate": rate,
                "nested": nested,
                "extend": (),
                "means": {rate: float(np.mean(losses)) for rate, losses in self.by_rate().items()},
                "failed": tuple(sorted(self.failed)),
                "reason": reason,
            }
        )


def least_squares_vertex(
    points: Sequence[tuple[float, float]], weights: Sequence[int], best: float, lowest: float, highest: float
) -> float:
    """The vertex of the parabola in log rate through (rate, mean loss), weighted by the number of runs.

    Never beyond the neighbours of the best rate; the best rate itself where nothing bends upwards.
    """
    x = np.log([rate / best for rate, _ in points])
    curve, slope, _ = np.polyfit(x, [loss for _, loss in points], 2, w=np.sqrt(weights))
    if curve <= 0:
        return best
    ends = np.log([lowest / best, highest / best])
    return round_rate(float(best * np.exp(np.clip(-slope / (2 * curve), *ends))))


def _places(places: Sequence[Place]) -> str:
    return ", ".join(f"{rate:g} seed {seed}" for rate, seed in places)
