"""Which ingredient does it? The effects of all orders of a full factorial, and what each factor does alone.

The two one-at-a-time readings: each ingredient is added alone to the start, and left out of the end.

Every effect is one contrast of the cells, taken seed by seed and judged by the declared method: `paired` is
Student's t on the contrasts by seed, `pooled` the saturated model `value ~ cell + seed`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from ablate.spec import Strict
from ablate.study.stats import intervals
from ablate.study.stats.intervals import Variance

LOST = ("diverged", "out_of_memory")
Levels = Mapping[str, tuple[str, ...]]


class Effect(Strict):
    """One contrast in the unit of the metric.

    main         the mean at `level` minus the mean at `reference`, the other factors in equal parts
    interaction  how much that difference changes when the second factor goes from its reference to its level;
                 of higher order, how much the interaction of the others changes
    simple       the difference in one cell of the other factors, `within`
    """

    kind: Literal["main", "interaction", "simple"]
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    difference: float
    low: float
    high: float
    p: float  # unadjusted
    within: dict[str, str] = Field({})  # of a simple effect: the levels of the other factors
    in_every_cell: bool | None = None  # of a main effect: whether each of its simple effects has its sign


class Factorial(Strict):
    """The effects of a full factorial, with intervals that hold together at 1 - alpha (Bonferroni).

    The simple effects are described: their intervals, each at the level of the others, are not in the family.
    """

    metric: str
    factors: dict[str, tuple[str, ...]]  # levels, the reference first
    effects: tuple[Effect, ...]
    alpha: float
    runs: int  # finished
    noise: float  # residual standard deviation of one run
    conditional: bool  # runs diverged or ran out of memory: seeds without them are judged
    waiting: tuple[str, ...]  # the runs that are missing; then there are no effects
    simple: tuple[Effect, ...] = ()
    variance: Variance = "paired"

    def table(self) -> pd.DataFrame:
        """One row for each effect, then for each simple effect."""
        rows = [
            {
                "effect": " x ".join(effect.factors),
                "change": " x ".join(
                    f"{old} -> {new}" for old, new in zip(effect.references, effect.levels, strict=True)
                ),
                "within": ", ".join(f"{name}={level}" for name, level in effect.within.items()),
                "difference": effect.difference,
                "low": effect.low,
                "high": effect.high,
                "p": effect.p,
                "in every cell": effect.in_every_cell,
            }
            for effect in (*self.effects, *self.simple)
        ]
        columns = ["effect", "change", "within", "difference", "low", "high", "p", "in every cell"]
        return pd.DataFrame(rows, columns=columns)


class Ingredient(Strict):
    """What one factor does at both ends of the way from start to end. Both differences are with - without,
    so that they agree where nothing interacts; None where the runs are not there."""

    factor: str
    added: intervals.Estimate | None  # start with this factor - start
    left_out: intervals.Estimate | None  # end - end without this factor
    conditional: bool  # runs of the table diverged or ran out of memory: judged among the finished


def factorial(
    frame: pd.DataFrame,
    factors: Mapping[str, Sequence[str]],
    metric: str,
    alpha: float = 0.05,
    variance: Variance = "paired",
) -> Factorial:
    """Judge the effects of all orders.

    `frame` has one row for each run: `seed`, `status`, `metric` and one column for each factor, whose
    levels are listed in `factors`, the reference first. Every cell must have been run at every seed; under
    `paired` a seed at which a cell was lost is left out.

    Raises ValueError for a factor without two levels, an unknown level, a duplicated run, a cell without any
    finished run, or fewer than two seeds to judge by.
    """
    levels = {name: tuple(str(level) for level in given) for name, given in factors.items()}
    _check(frame, levels, metric)
    runs = frame.assign(**{name: frame[name].astype(str) for name in levels})
    finished = runs[(runs["status"] == "finished") & runs[metric].notna()]
    waiting = _missing(runs, finished, levels)
    judged = Factorial(
        metric=metric,
        factors=levels,
        effects=(),
        alpha=alpha,
        runs=len(finished),
        noise=float("nan"),
        conditional=bool(runs["status"].isin(LOST).any()),
        waiting=waiting,
        variance=variance,
    )
    if waiting:
        return judged
    cells = list(product(*levels.values()))
    seen = set(finished[list(levels)].itertuples(index=False, name=None))
    if empty := [cell for cell in cells if cell not in seen]:
        raise ValueError(f"no run finished in the cell {_name(levels, empty[0])}: the model cannot be fitted")
    columns = [cells.index(cell) for cell in finished[list(levels)].itertuples(index=False, name=None)]
    by_cell = finished.assign(cell=columns).pivot(index="seed", columns="cell", values=metric)
    values = by_cell.sort_index(axis=1)
    contrasts = [*_contrasts(levels, cells)]
    simple = [*_simple(levels, cells)]
    estimates, noise = _estimates(
        values, np.array([c.weights for c in (*contrasts, *simple)]), alpha / len(contrasts), variance
    )
    effects = [_effect(*pair) for pair in zip((*contrasts, *simple), estimates, strict=True)]
    main, described = effects[: len(contrasts)], effects[len(contrasts) :]
    return judged.model_copy(
        update={
            "effects": tuple(_flagged(effect, described) for effect in main),
            "simple": tuple(described) if len(levels) > 1 else (),
            "noise": noise,
        }
    )


def one_at_a_time(
    frame: pd.DataFrame, start: Mapping[str, str], end: Mapping[str, str], metric: str, alpha: float = 0.05
) -> tuple[Ingredient, ...]:
    """Add-one-in and leave-one-out: paired t by seed between single cells, simultaneous by Bonferroni.

    `start` and `end` give the level of every factor at both ends. A contrast of which a run is missing, or
    has fewer than two pairs, is None.
    """
    names = [name for name in start if start[name] != end[name]]
    if set(start) != set(end) or not names:
        raise ValueError("start and end must name the same factors and differ in one or more")
    _check(frame, {name: (str(start[name]), str(end[name])) for name in names}, metric, exhaustive=False)
    each = alpha / (2 * len(names))
    lost = bool(frame["status"].isin(LOST).any())
    return tuple(
        Ingredient(
            factor=name,
            added=_paired(frame, {**start, name: end[name]}, start, metric, each),
            left_out=_paired(frame, end, {**end, name: start[name]}, metric, each),
            conditional=lost,
        )
        for name in names
    )


class Weights(NamedTuple):
    """One effect as weights over the cells."""

    factors: tuple[str, ...]
    references: tuple[str, ...]
    levels: tuple[str, ...]
    within: dict[str, str]
    weights: NDArray[np.float64]


def _estimates(
    values: pd.DataFrame, weights: NDArray[np.float64], alpha: float, variance: Variance
) -> tuple[list[intervals.Estimate], float]:
    """The contrasts, each at the level 1 - alpha, and the residual standard deviation of one run."""
    if variance == "pooled":
        return intervals.pooled_weights(values, weights, alpha)
    whole = values.dropna().to_numpy(dtype=float)
    if len(whole) < 2:
        raise ValueError(
            f"only {len(whole)} seed{'s' * (len(whole) != 1)} finished in every cell; run two seeds or more"
        )
    residual = whole - whole.mean(axis=0) - whole.mean(axis=1, keepdims=True) + whole.mean()
    degrees = (whole.shape[0] - 1) * (whole.shape[1] - 1)
    by_seed = whole @ weights.T
    none = np.zeros(len(whole))
    estimates = [intervals.paired(by_seed[:, n], none, alpha) for n in range(len(weights))]
    return estimates, float(np.sqrt((residual**2).sum() / degrees))


def _effect(contrast: Weights, estimate: intervals.Estimate) -> Effect:
    main: Literal["main", "interaction"] = "main" if len(contrast.factors) == 1 else "interaction"
    return Effect(
        kind="simple" if contrast.within else main,
        factors=contrast.factors,
        levels=contrast.levels,
        references=contrast.references,
        difference=estimate.difference,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        within=contrast.within,
    )


def _flagged(effect: Effect, simple: Sequence[Effect]) -> Effect:
    """A main effect with whether its sign is that of every cell."""
    cells = [one for one in simple if (one.factors, one.levels) == (effect.factors, effect.levels)]
    if effect.kind != "main" or not cells:
        return effect
    same = all(one.difference * effect.difference > 0 for one in cells)
    return effect.model_copy(update={"in_every_cell": same})


def _change(levels: Levels, cells: Sequence[tuple[str, ...]], name: str, level: str) -> NDArray[np.float64]:
    """+1 in the cells at the level, -1 at the reference, 0 elsewhere."""
    at = [cell[list(levels).index(name)] for cell in cells]
    return np.array([(a == level) - (a == levels[name][0]) for a in at], dtype=float)


def _contrasts(levels: Levels, cells: Sequence[tuple[str, ...]]) -> Iterator[Weights]:
    """Yield the effects of every order, the main effects first."""
    for order in range(1, len(levels) + 1):
        for names in combinations(levels, order):
            for new in product(*(levels[name][1:] for name in names)):
                changes = [_change(levels, cells, *pair) for pair in zip(names, new, strict=True)]
                weights = np.prod(changes, axis=0)
                new_in_all = np.all([change == 1 for change in changes], axis=0).sum()
                references = tuple(levels[name][0] for name in names)
                yield Weights(names, references, new, {}, weights / new_in_all)


def _simple(levels: Levels, cells: Sequence[tuple[str, ...]]) -> Iterator[Weights]:
    """Yield the effect of each factor in every cell of the others; nothing where there is one factor."""
    for name in levels if len(levels) > 1 else ():
        others = {other: levels[other] for other in levels if other != name}
        for new in levels[name][1:]:
            for cell in product(*others.values()):
                within = dict(zip(others, cell, strict=True))
                here = [{*within.items()} <= {*zip(levels, each, strict=True)} for each in cells]
                weights = _change(levels, cells, name, new) * np.array(here, dtype=float)
                yield Weights((name,), levels[name][:1], (new,), within, weights)


def _paired(
    frame: pd.DataFrame, first: Mapping[str, str], second: Mapping[str, str], metric: str, alpha: float
) -> intervals.Estimate | None:
    """first - second by seed; None while a run of either cell is missing."""
    values, seeds = [], []
    for cell in (first, second):
        here = np.logical_and.reduce([frame[name].astype(str) == str(level) for name, level in cell.items()])
        rows = frame[here].set_index("seed")
        if rows.index.has_duplicates:
            raise ValueError(
                f"duplicated record: {_name(cell, list(cell.values()))}; keep one run for each seed"
            )
        scored = (rows["status"] == "finished") & rows[metric].notna()
        if rows.empty or not (scored | rows["status"].isin(LOST)).all():
            return None
        values.append(rows[metric][scored])
        seeds.append(set(rows.index))
    if seeds[0] != seeds[1]:
        return None
    both = pd.concat(values, axis=1, join="inner").to_numpy(dtype=float)
    return intervals.paired(both[:, 0], both[:, 1], alpha) if len(both) >= 2 else None


def _check(
    frame: pd.DataFrame, levels: Mapping[str, tuple[str, ...]], metric: str, exhaustive: bool = True
) -> None:
    absent = [column for column in ("seed", "status", metric, *levels) if column not in frame.columns]
    if absent:
        raise ValueError(
            f"the frame lacks the columns {', '.join(absent)}; it has {', '.join(frame.columns)}"
        )
    for name, known in levels.items():
        if len(set(known)) < 2:
            raise ValueError(f"factor {name!r} needs two levels or more, not {list(known)}")
        unknown = sorted(set(frame[name].astype(str)) - set(known)) if exhaustive else []
        if unknown:
            raise ValueError(
                f"factor {name!r}: unknown level {', '.join(unknown)}; allowed are {', '.join(known)}"
            )
    twice = frame[frame.duplicated([*levels, "seed"])]
    if len(twice) and exhaustive:
        row = twice.iloc[0]
        cell = _name(levels, [str(row[name]) for name in levels])
        raise ValueError(f"duplicated record: {cell}, seed {row['seed']}; keep one of them")


def _missing(
    runs: pd.DataFrame, finished: pd.DataFrame, levels: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The runs of the full factorial that are neither finished nor lost."""
    ended = pd.concat([finished, runs[runs["status"].isin(LOST)]])
    there = set(ended[[*levels, "seed"]].itertuples(index=False, name=None))
    return tuple(
        f"{_name(levels, cell)}, seed {seed}"
        for cell in product(*levels.values())
        for seed in sorted(set(runs["seed"]))
        if (*cell, seed) not in there
    )


def _name(levels: Mapping[str, object], cell: Sequence[str]) -> str:
    return ", ".join(f"{name}={level}" for name, level in zip(levels, cell, strict=True))
