"""Choose a learning rate for each arm from its tuning runs, before any test run.

The best point of a grid is a noisy choice, and its noise is common to all test seeds: it stays outside
their interval. Two seeds and the vertex of a parabola make it small; `keep_better` brings it inside, by
choosing again at every test seed. Beside a rate that failed there is no parabola, and equal arms may come to
rates that lie far apart. There the grid is refined for every arm; then every test seed trains every arm at
the best rates of all of them, and keeps the better on validation.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from ablate.spec import Strict
from ablate.study.stats.outcomes import by_arm, check_frame
from ablate.study.stats.plateau import PlateauRun, find_plateaus

# Half a decade is a factor of 10 ** 0.5 = 3.16. The usual 1, 3, 10 grid is meant too: 1 to 3, 3 to 10.
WIDEST_STEP = 10 / 3 * (1 + 1e-9)
FINEST_STEP = 2.0  # beside a rate that failed the grid is refined until rates are no further apart than this
FEWEST_RATES = 5
FAILED = ("diverged", "out_of_memory", "refused")  # outcomes without a loss: no other launch gives one

ChoiceKind = Literal["vertex", "boundary", "refine", "edge", "waiting", "none"]


class Choice(Strict):
    """The rate chosen for one arm, and how.

    vertex    of the parabola through the best point and its neighbours
    boundary  the best point itself: a neighbour failed, so no parabola and no wider grid
    refine    a neighbour failed and is far away: run the rate in `extend`, between the two, for every arm
    edge      the best point is the first or the last of the grid: run the rates in `extend` for every arm
    waiting   tuning runs are missing
    none      at every rate some tuning run failed

    A rate failed where a tuning run diverged, ran out of memory or ended on a plateau.
    """

    arm: str
    kind: ChoiceKind
    rate: float | None  # to train the test seeds at; None while there is none
    nested: tuple[float, ...]  # for nested tuning: the best grid rate and its better neighbour
    extend: tuple[float, ...]  # rates to add
    means: dict[float, float]  # eligible rate -> validation loss, averaged over the tuning seeds
    failed: tuple[float, ...]  # rates at which a tuning run failed: not eligible
    reason: str
    shared: tuple[float, ...] = ()  # rates that every arm is tested at, since one stands beside a failed rate

    def rates(self, nested: bool) -> tuple[float, ...]:
        """Those that each test seed is trained at."""
        if self.rate is None:
            return ()
        return self.shared or (self.nested if nested else (self.rate,))


class Tuning(Strict):
    """The choices of all arms; `extend` is what the grid of every arm still lacks."""

    choices: tuple[Choice, ...]
    extend: tuple[float, ...]
    seeds: tuple[int, ...]
    warnings: tuple[str, ...]
    plateaus: tuple[PlateauRun, ...] = ()  # tuning runs that ended on one
    level: float | None = None  # the metric from which a run is on a plateau; None where none is known

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
                f"add a rate between them, such as {round_rate(math.sqrt(lower * upper)):g}"
            )


def tune(
    frame: pd.DataFrame,
    metric: str = "validation/loss",
    better: str = "lower",
    nested: bool = False,
    level: float | None = None,
) -> Tuning:
    """Choose a rate for every arm of a study from its rows of role `tuning`.

    `frame` is the tidy frame of a study (see `ablate.study.stats.outcomes`) with the column `rate`. Every arm
    is held to the union of all rates and tuning seeds: a run that one arm has and another lacks is waited
    for. `level` is the loss of single tokens, where it is known (see `ablate.study.stats.plateau`).

    Raises ValueError for a grid that `check_grid` refuses, a held-out metric, a duplicated record, or tuning
    seeds that are test seeds too.
    """
    rows = tuning_rows(frame, metric)
    if rows.empty:
        raise ValueError("there are no rows of role 'tuning' to choose a rate from")
    rates = sorted({float(rate) for rate in rows["rate"]})
    check_grid(rates)
    seeds = sorted({int(seed) for seed in rows["seed"]})
    sign = -1.0 if better == "higher" else 1.0
    statuses, losses = tuning_outcomes(rows, metric, sign)
    plateaus = find_plateaus(losses, level)
    lost = {(run.arm, run.rate) for run in plateaus.runs}
    lost |= {(arm, rate) for (arm, rate, _), status in statuses.items() if status in FAILED}
    choices = tuple(
        _choose(arm, losses, rates, seeds, {rate for name, rate in lost if name == arm}, sign)
        for arm in dict.fromkeys(rows["arm"].astype(str))
    )
    extend = sorted({rate for choice in choices for rate in choice.extend})
    return Tuning(
        choices=choices if extend else share_rates(choices, nested),
        extend=tuple(extend),
        seeds=tuple(seeds),
        warnings=tuple(tuning_warnings(seeds, plateaus.runs)),
        plateaus=tuple(run._replace(loss=sign * run.loss) for run in plateaus.runs),
        level=None if plateaus.level is None else sign * plateaus.level,
    )


def tuning_rows(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of tuning runs. Raises ValueError for a frame or a metric by which no rate can be chosen."""
    check_frame(frame, metric)
    if metric.startswith("heldout"):
        raise ValueError(f"metric: rates are chosen on validation, never on {metric!r}")
    if "rate" not in frame.columns:
        raise ValueError(f"the frame lacks the column rate; it has {', '.join(frame.columns)}")
    rows = frame[frame["role"] == "tuning"]
    if rows["rate"].isna().any():
        raise ValueError(f"arm {rows['arm'][rows['rate'].isna()].iloc[0]!r}: a tuning run has no rate")
    _refuse_duplicates(rows)
    return rows


def tuning_outcomes(
    rows: pd.DataFrame, metric: str, sign: float
) -> tuple[dict[tuple[str, float, int], str], dict[tuple[str, float, int], float]]:
    """By (arm, rate, seed): how each run ended, and the loss of those that finished; less is better."""
    statuses, losses = {}, {}
    columns = (rows[name].tolist() for name in ("arm", "rate", "seed", "status", metric))
    for arm, rate, seed, status, value in zip(*columns, strict=True):
        place = str(arm), float(rate), int(seed)
        statuses[place] = status
        if status == "finished" and _finite(value):
            losses[place] = sign * value
    return statuses, losses


def tuning_warnings(seeds: Sequence[int], plateaus: Sequence[PlateauRun]) -> list[str]:
    """What a reader must know of the tuning runs."""
    warnings = []
    if len(seeds) < 2:
        warnings.append(
            "one tuning seed: the choice of the rate is noisy, and no interval over test seeds contains "
            "that noise; use two tuning seeds or more"
        )
    if plateaus:
        cells: dict[str, dict[float, list[str]]] = {}
        for run in plateaus:
            cells.setdefault(run.arm, {}).setdefault(run.rate, []).append(f"{run.loss:.4g}")
        named = {
            arm: ", ".join(f"{rate:g} ({', '.join(losses)})" for rate, losses in sorted(rates.items()))
            for arm, rates in cells.items()
        }
        each = "; ".join(f"{arm} at {rates}" for arm, rates in named.items())
        warnings.append(f"{len(plateaus)} tuning runs ended on a plateau and choose no rate: {each}")
    return warnings


def _choose(
    arm: str,
    losses: Mapping[tuple[str, float, int], float],
    rates: list[float],
    seeds: list[int],
    lost: set[float],
    sign: float,
) -> Choice:
    """The choice for one arm. `losses` are those of finished runs, the less the better."""
    failed = tuple(rate for rate in rates if rate in lost)
    missing = [
        (rate, seed)
        for rate in rates
        for seed in seeds
        if rate not in lost and (arm, rate, seed) not in losses
    ]
    unusable = {*failed, *(rate for rate, _ in missing)}
    means = {
        rate: float(np.mean([losses[arm, rate, seed] for seed in seeds]))
        for rate in rates
        if rate not in unusable
    }

    def choice(kind: ChoiceKind, reason: str, rate: float | None = None, **rest: tuple[float, ...]) -> Choice:
        return Choice(
            arm=arm,
            kind=kind,
            rate=rate,
            nested=rest.get("nested", ()),
            extend=rest.get("extend", ()),
            means={rate: sign * mean for rate, mean in means.items()},
            failed=failed,
            reason=reason,
        )

    if missing:
        named = ", ".join(f"{rate:g} seed {seed}" for rate, seed in missing)
        return choice("waiting", f"waiting for the tuning runs at {named}")
    if not means:
        return choice("none", "no rate is eligible: at every one some tuning run failed")
    best = min(means, key=means.__getitem__)
    at = rates.index(best)
    if at in (0, len(rates) - 1):
        extend = _beyond(rates, at)
        return choice(
            "edge",
            f"the best rate {best:g} is at the edge: "
            f"extend the grid of every arm by {rates_in_words(extend)}",
            extend=extend,
        )
    beside = (rates[at - 1], rates[at + 1])
    around = [rate for rate in beside if rate in means]
    nested = (best, *sorted(around, key=means.__getitem__)[:1])
    if len(around) == 2:
        rate = vertex([(r, means[r]) for r in (rates[at - 1], best, rates[at + 1])])
        return choice("vertex", f"vertex of a parabola in log rate around {best:g}", rate=rate, nested=nested)
    gone = [rate for rate in beside if rate not in means]
    stands = f"the best rate {best:g} stands beside {rates_in_words(gone)}, where a tuning run failed"
    if between := tuple(
        round_rate(math.sqrt(rate * best)) for rate in gone if max(rate / best, best / rate) > FINEST_STEP
    ):
        return choice(
            "refine", f"{stands}: extend the grid of every arm by {rates_in_words(between)}", extend=between
        )
    return choice("boundary", stands, rate=best, nested=nested)


def share_rates(choices: tuple[Choice, ...], nested: bool) -> tuple[Choice, ...]:
    """The choices where one stands beside a failed rate: which of two rates an arm came to may be chance, so
    every test seed trains every arm at the best rates of all arms."""
    if any(choice.kind == "waiting" for choice in choices):
        return choices
    if not any(choice.kind == "boundary" for choice in choices):
        return choices
    able = [choice for choice in choices if choice.nested]
    rates = sorted({rate for choice in able for rate in (choice.nested if nested else choice.nested[:1])})
    how = "an arm's best rate stands beside one that failed, so every arm is tested at "
    how += (
        f"{rates_in_words(rates)}, the better kept at each test seed"
        if len(rates) > 1
        else rates_in_words(rates)
    )
    return tuple(
        choice.model_copy(
            update={
                "rate": choice.nested[0],
                "shared": tuple(rates),
                "reason": f"{choice.reason}; {how}" if choice.kind == "boundary" else how,
            }
        )
        if choice.nested
        else choice
        for choice in choices
    )


def rates_in_words(rates: Sequence[float]) -> str:
    """Rates in a sentence."""
    return ", ".join(f"{rate:g}" for rate in rates)


def vertex(points: Sequence[tuple[float, float]]) -> float:
    """The rate at the vertex of the parabola, in log rate, through three (rate, loss); the middle one is
    the least. It lies between the outer two."""
    x = np.log([rate for rate, _ in points])
    middle = x[1]
    curve, slope, _ = np.polyfit(x - middle, [loss for _, loss in points], 2)
    if curve <= 0:  # three equal losses: nothing to prefer
        return float(points[1][0])
    return round_rate(float(np.exp(middle - slope / (2 * curve))))


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
    return tuple(sorted(round_rate(rates[at] * step**k) for k in (1, 2)))


def _finite(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def round_rate(rate: float) -> float:
    """Three significant digits: a rate that a person can type again."""
    return float(f"{rate:.3g}")
