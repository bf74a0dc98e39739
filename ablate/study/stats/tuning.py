"""Choose a learning rate for each arm from its tuning runs, before any test run.

The best point of a grid is a noisy choice, and its noise is common to all test seeds: it stays outside
their interval. Two seeds and the vertex of a parabola make it small; `keep_better` (nested tuning) brings
it inside, by choosing again at every test seed.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from ablate.spec import Strict
from ablate.study.stats.outcomes import by_arm, check_frame

# Half a decade is a factor of 10 ** 0.5 = 3.16. The usual 1, 3, 10 grid is meant too: 1 to 3, 3 to 10.
WIDEST_STEP = 10 / 3 * (1 + 1e-9)
FEWEST_RATES = 5
FAILED = ("diverged", "out_of_memory", "refused")  # outcomes without a loss: no other launch gives one

Kind = Literal["vertex", "boundary", "edge", "waiting", "none"]


class Choice(Strict):
    """The rate chosen for one arm, and how.

    vertex    of the parabola through the best point and its neighbours
    boundary  the best point itself: a neighbour failed, so no parabola and no wider grid
    edge      the best point is the first or the last of the grid: run the rates in `extend` for every arm
    waiting   tuning runs are missing
    none      at every rate some tuning run failed
    """

    arm: str
    kind: Kind
    rate: float | None  # to train the test seeds at; None while there is none
    nested: tuple[float, ...]  # for nested tuning: the best grid rate and its better neighbour
    extend: tuple[float, ...]  # rates to add
    means: dict[float, float]  # rate -> validation loss, averaged over the tuning seeds
    failed: tuple[float, ...]  # rates at which a tuning run failed: not eligible
    reason: str

    def rates(self, nested: bool) -> tuple[float, ...]:
        """Those that each test seed is trained at."""
        if self.rate is None:
            return ()
        return self.nested if nested else (self.rate,)


class Tuning(Strict):
    """The choices of all arms; `extend` is what the grid of every arm still lacks."""

    choices: tuple[Choice, ...]
    extend: tuple[float, ...]
    seeds: tuple[int, ...]
    warnings: tuple[str, ...]

    def choice(self, arm: str) -> Choice:
        """Raises KeyError, naming the arms there are."""
        return by_arm(self.choices, arm, "no tuning of {}")


def check_grid(rates: Sequence[float]) -> None:
    """Raise ValueError unless there are five rates or more, ascending, half a decade apart or closer."""
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates):
        raise ValueError(f"tune: rates must be positive numbers, not {list(rates)}")
    if list(rates) != sorted(set(rates)):
        raise ValueError(f"tune: rates must ascend and differ, not {list(rates)}")
    if len(rates) < FEWEST_RATES:
        raise ValueError(f"tune: the grid needs {FEWEST_RATES} rates or more; it has {len(rates)}")
    for lower, upper in pairwise(rates):
        if upper / lower > WIDEST_STEP:
            raise ValueError(
                f"tune: {lower:g} and {upper:g} are more than half a decade apart; "
                f"add a rate between them, such as {_round(math.sqrt(lower * upper)):g}"
            )


def tune(frame: pd.DataFrame, metric: str = "validation/loss", better: str = "lower") -> Tuning:
    """Choose a rate for every arm of a study from its rows of role `tuning`.

    `frame` is the tidy frame of a study (see `ablate.study.stats.outcomes`) with the column `rate`. Every arm
    is held to the union of all rates and tuning seeds: a run that one arm has and another lacks is waited
    for. Raises ValueError for a grid that `check_grid` refuses, a held-out metric, a duplicated record,
    or tuning seeds that are test seeds too.
    """
    check_frame(frame, metric)
    if metric.startswith("heldout"):
        raise ValueError(f"metric: rates are chosen on validation, never on {metric!r}")
    if "rate" not in frame.columns:
        raise ValueError(f"the frame lacks the column rate; it has {', '.join(frame.columns)}")
    rows = frame[frame["role"] == "tuning"]
    if rows.empty:
        raise ValueError("there are no rows of role 'tuning' to choose a rate from")
    if rows["rate"].isna().any():
        raise ValueError(f"arm {rows['arm'][rows['rate'].isna()].iloc[0]!r}: a tuning run has no rate")
    _refuse_duplicates(rows)
    rates = sorted({float(rate) for rate in rows["rate"]})
    check_grid(rates)
    seeds = sorted({int(seed) for seed in rows["seed"]})
    sign = -1.0 if better == "higher" else 1.0
    choices = tuple(
        _choose(str(arm), mine, metric, rates, seeds, sign) for arm, mine in rows.groupby("arm", sort=False)
    )
    warnings = []
    if len(seeds) < 2:
        warnings.append(
            "one tuning seed: the choice of the rate is noisy, and no interval over test seeds contains "
            "that noise; use two tuning seeds or more"
        )
    extend = sorted({rate for choice in choices for rate in choice.extend})
    return Tuning(choices=choices, extend=tuple(extend), seeds=tuple(seeds), warnings=tuple(warnings))


def _choose(
    arm: str, rows: pd.DataFrame, metric: str, rates: list[float], seeds: list[int], sign: float
) -> Choice:
    status = {
        (float(r), int(s)): v for r, s, v in zip(rows["rate"], rows["seed"], rows["status"], strict=True)
    }
    value = {(float(r), int(s)): v for r, s, v in zip(rows["rate"], rows["seed"], rows[metric], strict=True)}
    runs = [(rate, seed) for rate in rates for seed in seeds]
    failed = tuple(rate for rate in rates if any(status.get((rate, seed)) in FAILED for seed in seeds))
    missing = [
        (rate, seed)
        for rate, seed in runs
        if rate not in failed and (status.get((rate, seed)) != "finished" or not _finite(value[rate, seed]))
    ]
    unusable = {*failed, *(rate for rate, _ in missing)}
    means = {
        rate: float(np.mean([value[rate, seed] for seed in seeds])) for rate in rates if rate not in unusable
    }

    def choice(kind: Kind, reason: str, rate: float | None = None, **rest: tuple[float, ...]) -> Choice:
        nested, extend = rest.get("nested", ()), rest.get("extend", ())
        return Choice(
            arm=arm,
            kind=kind,
            rate=rate,
            nested=nested,
            extend=extend,
            means=means,
            failed=failed,
            reason=reason,
        )

    if missing:
        named = ", ".join(f"{rate:g} seed {seed}" for rate, seed in missing)
        return choice("waiting", f"waiting for the tuning runs at {named}")
    if not means:
        return choice("none", "no rate is eligible: at every one some tuning run failed")
    best = min(means, key=lambda rate: sign * means[rate])
    at = rates.index(best)
    if at in (0, len(rates) - 1):
        extend = _beyond(rates, at)
        return choice(
            "edge",
            f"the best rate {best:g} is at the edge: extend the grid of every arm by "
            f"{', '.join(f'{rate:g}' for rate in extend)}",
            extend=extend,
        )
    around = [rate for rate in (rates[at - 1], rates[at + 1]) if rate in means]
    nested = (best, *sorted(around, key=lambda rate: sign * means[rate])[:1])
    if len(around) < 2:
        lost = [rate for rate in (rates[at - 1], rates[at + 1]) if rate not in means]
        return choice(
            "boundary",
            f"the best rate {best:g} stands beside {', '.join(f'{rate:g}' for rate in lost)}, "
            "where a tuning run failed",
            rate=best,
            nested=nested,
        )
    rate = vertex([(r, sign * means[r]) for r in (rates[at - 1], best, rates[at + 1])])
    return choice("vertex", f"vertex of a parabola in log rate around {best:g}", rate=rate, nested=nested)


def vertex(points: Sequence[tuple[float, float]]) -> float:
    """The rate at the vertex of the parabola, in log rate, through three (rate, loss); the middle one is
    the least. It lies between the outer two."""
    x = np.log([rate for rate, _ in points])
    middle = x[1]
    curve, slope, _ = np.polyfit(x - middle, [loss for _, loss in points], 2)
    if curve <= 0:  # three equal losses: nothing to prefer
        return float(points[1][0])
    return _round(float(np.exp(middle - slope / (2 * curve))))


def keep_better(frame: pd.DataFrame, metric: str = "validation/loss") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nested tuning: of the runs of one (arm, seed) at different rates keep the best on validation.

    Returns (the frame with one test row for each arm and seed, the test rows set aside). A diverged run
    loses to a finished one; a run that is missing keeps its place, so that the seed waits for it. Raises
    ValueError for a duplicated record or a held-out metric.
    """
    if metric.startswith("heldout"):
        raise ValueError(f"metric: rates are chosen on validation, never on {metric!r}")
    frame = frame.reset_index(drop=True)
    test = frame[frame["role"] == "test"]
    _refuse_duplicates(test)
    ended = test["status"].isin(["finished", "diverged", "out_of_memory"])
    finished = test["status"] == "finished"
    # The least key of a seed is kept: a missing run first, then the finished by loss, then the failed.
    key = test[metric].where(finished, np.inf).fillna(-np.inf).where(ended, -np.inf)
    kept = key.groupby([test["arm"], test["seed"]]).idxmin()
    aside = test[~test.index.isin(kept)]
    return frame.drop(index=aside.index), aside


def _refuse_duplicates(rows: pd.DataFrame) -> None:
    twice = rows[rows.duplicated(["arm", "seed", "role", "rate"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"duplicated record: arm {row['arm']!r}, seed {row['seed']}, role {row['role']!r}, "
            f"rate {row['rate']:g} stands more than once in the frame; keep one of them"
        )


def _beyond(rates: list[float], at: int) -> tuple[float, ...]:
    """Two more rates outside the edge, as far apart as the last two."""
    step = rates[at] / rates[1] if at == 0 else rates[at] / rates[at - 1]
    return tuple(sorted(_round(rates[at] * step**k) for k in (1, 2)))


def _finite(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _round(rate: float) -> float:
    """Three significant digits: a rate that a person can type again."""
    return float(f"{rate:.3g}")
