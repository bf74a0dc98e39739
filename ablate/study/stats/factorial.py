"""Which ingredient does it? Main effects and two-way interactions of a full factorial, and the two
one-at-a-time readings: each ingredient added alone to the start, each left out of the end."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablate.spec import Strict
from ablate.study.stats import intervals

LOST = ("diverged", "out_of_memory")


class Effect(Strict):
    """One contrast in the unit of the metric.

    main         the mean at `level` minus the mean at `reference`, the other factors in equal parts
    interaction  how much that difference changes when the second factor goes from its reference to its level
    """

    kind: Literal["main", "interaction"]
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    difference: float
    low: float
    high: float
    p: float  # unadjusted


class Factorial(Strict):
    """The effects of a full factorial, with intervals that hold together at 1 - alpha (Bonferroni)."""

    metric: str
    factors: dict[str, tuple[str, ...]]  # levels, the reference first
    effects: tuple[Effect, ...]
    alpha: float
    runs: int  # finished
    noise: float  # residual standard deviation of one run
    conditional: bool  # runs diverged or ran out of memory: judged among the finished
    waiting: tuple[str, ...]  # the runs that are missing; then there are no effects

    def table(self) -> pd.DataFrame:
        """One row for each effect."""
        return pd.DataFrame(
            [
                {
                    "effect": " x ".join(effect.factors),
                    "change": " x ".join(
                        f"{old} -> {new}" for old, new in zip(effect.references, effect.levels, strict=True)
                    ),
                    "difference": effect.difference,
                    "low": effect.low,
                    "high": effect.high,
                    "p": effect.p,
                }
                for effect in self.effects
            ],
            columns=["effect", "change", "difference", "low", "high", "p"],
        )


class Ingredient(Strict):
    """What one factor does at both ends of the way from start to end. Both differences are with - without,
    so that they agree where nothing interacts; None where the runs are not there."""

    factor: str
    added: intervals.Estimate | None  # start with this factor - start
    left_out: intervals.Estimate | None  # end - end without this factor
    conditional: bool  # runs of the table diverged or ran out of memory: judged among the finished


def factorial(
    frame: pd.DataFrame, factors: Mapping[str, Sequence[str]], metric: str, alpha: float = 0.05
) -> Factorial:
    """Fit `metric ~ (a + b + ...)^2 + seed` with sum coding and read the contrasts off it.

    `frame` has one row for each run: `seed`, `status`, `metric` and one column for each factor, whose
    levels are listed in `factors`, the reference first. Every cell must have been run at every seed.

    Raises ValueError for a factor without two levels, an unknown level, a duplicated run, or a cell
    without any finished run.
    """
    levels = {name: tuple(str(level) for level in given) for name, given in factors.items()}
    _check(frame, levels, metric)
    runs = frame.assign(**{name: frame[name].astype(str) for name in levels})
    finished = runs[(runs["status"] == "finished") & runs[metric].notna()]
    waiting = _missing(runs, finished, levels)
    lost = bool(runs["status"].isin(LOST).any())
    if waiting:
        return Factorial(
            metric=metric, factors=levels, effects=(), alpha=alpha, runs=len(finished), noise=float("nan"),
            conditional=lost, waiting=waiting,
        )  # fmt: skip
    cells = list(product(*levels.values()))
    seen = set(finished[list(levels)].itertuples(index=False, name=None))
    empty = [cell for cell in cells if cell not in seen]
    if empty:
        raise ValueError(f"no run finished in the cell {_name(levels, empty[0])}: the model cannot be fitted")
    fit, rows = _fit(finished, levels, metric, cells)
    wanted = list(_contrasts(levels, cells))
    test = fit.t_test(np.array([weights @ rows for *_, weights in wanted]))
    bounds = np.asarray(test.conf_int(alpha / len(wanted)))
    effects = tuple(
        Effect(
            kind="main" if len(names) == 1 else "interaction",
            factors=names,
            levels=new,
            references=old,
            difference=float(difference),
            low=float(low),
            high=float(high),
            p=float(p),
        )
        for (names, old, new, _), difference, (low, high), p in zip(
            wanted, np.atleast_1d(test.effect), bounds, np.atleast_1d(test.pvalue), strict=True
        )
    )
    return Factorial(
        metric=metric,
        factors=levels,
        effects=effects,
        alpha=alpha,
        runs=len(finished),
        noise=float(np.sqrt(fit.scale)),
        conditional=lost,
        waiting=(),
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


def _fit(
    runs: pd.DataFrame, levels: Mapping[str, tuple[str, ...]], metric: str, cells: list[tuple[str, ...]]
) -> tuple[Any, NDArray[np.float64]]:
    """The fit, and the design row of every cell (cells, parameters) with the seed left out: every contrast
    is within seeds, where the blocks cancel."""
    import statsmodels.formula.api as smf

    names = {name: f"f{i}" for i, name in enumerate(levels)}  # a formula takes plain names only
    data = pd.DataFrame({names[name]: runs[name].to_numpy() for name in levels})
    data = data.assign(value=runs[metric].to_numpy(dtype=float), block=runs["seed"].to_numpy())
    terms = " + ".join(f"C({name}, Sum)" for name in names.values())
    blocks = " + C(block)" if data["block"].nunique() > 1 else ""
    fit = smf.ols(f"value ~ ({terms})**2{blocks}", data).fit()
    if fit.df_resid < 1:
        raise ValueError("the factorial has no degree of freedom left for the noise; run more seeds")
    block = [str(name).startswith("C(block)") for name in fit.model.exog_names]
    design = np.where(block, 0.0, fit.model.exog)
    where = {cell: i for i, cell in enumerate(zip(*(runs[name] for name in levels), strict=True))}
    return fit, design[[where[cell] for cell in cells]]


def _contrasts(
    levels: Mapping[str, tuple[str, ...]], cells: list[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], NDArray[np.float64]]]:
    """Yield (factors, references, levels, weights over the cells) of every effect."""
    names = list(levels)

    def change(name: str, level: str) -> NDArray[np.float64]:
        """+1 at the level, -1 at the reference, 0 elsewhere."""
        at = [cell[names.index(name)] for cell in cells]
        return np.array([(a == level) - (a == levels[name][0]) for a in at], dtype=float)

    for name in names:
        for level in levels[name][1:]:
            weights = change(name, level)
            yield (name,), levels[name][:1], (level,), weights / (weights == 1).sum()
    for a, b in combinations(names, 2):
        for level_a, level_b in product(levels[a][1:], levels[b][1:]):
            weights = change(a, level_a) * change(b, level_b)
            both = (change(a, level_a) == 1) & (change(b, level_b) == 1)
            yield (a, b), (levels[a][0], levels[b][0]), (level_a, level_b), weights / both.sum()


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
