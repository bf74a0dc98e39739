"""The runs of a study by arm: what each seed came to, read from the study's frame and checked.

The frame is tidy, one row for each run, with the columns `arm`, `seed`, `status` (a value of
`ablate.record.Status`, or missing where the run has not ended), `role` and one column for each metric. An
optional column `plateau` (bool) marks finished runs that ended on a plateau (`ablate.study.stats.plateau`).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar, get_args

import pandas as pd
from pydantic import Field

from ablate.record import Status
from ablate.spec import Strict

Role = Literal["test", "tuning", "fixed", "budget"]
_COLUMNS = ("arm", "seed", "status", "role")


class Outcomes(Strict):
    """One arm: the value of the metric by seed where the run finished, and the other seeds by what happened.

    `missing` says why: crashed, interrupted, refused, not run yet, or finished without this metric.
    """

    arm: str
    values: dict[int, float]
    diverged: tuple[int, ...] = ()
    plateau: tuple[int, ...] = ()  # finished, on a plateau: they have a value, and count against stability
    out_of_memory: tuple[int, ...] = ()
    missing: dict[int, str] = Field({})
    refused: bool = False  # every run: the plan's business, the arm leaves the family

    @property
    def seeds(self) -> set[int]:
        return {*self.values, *self.failed, *self.missing}

    @property
    def failed(self) -> set[int]:
        """The seeds that have an outcome and no value."""
        return {*self.diverged, *self.out_of_memory}

    @property
    def begun(self) -> set[int]:
        """The seeds that came to anything at all."""
        return {seed for seed in self.seeds if self.missing.get(seed) != "not run yet"}

    def among(self, seeds: list[int]) -> "Outcomes":
        """The same arm on these seeds; one that it never had is missing."""
        absent = {seed: "not run yet" for seed in seeds if seed not in self.seeds}
        return self.model_copy(
            update={
                "values": {seed: self.values[seed] for seed in seeds if seed in self.values},
                "diverged": tuple(seed for seed in seeds if seed in self.diverged),
                "plateau": tuple(seed for seed in seeds if seed in self.plateau),
                "out_of_memory": tuple(seed for seed in seeds if seed in self.out_of_memory),
                "missing": {s: self.missing[s] for s in seeds if s in self.missing} | absent,
            }
        )


class OfArm(Protocol):
    """What is looked up by its arm."""

    @property
    def arm(self) -> str: ...


ArmItem = TypeVar("ArmItem", bound=OfArm)


def by_arm(each: Sequence[ArmItem], arm: str, absent: str) -> ArmItem:
    """The first of these that is of the arm. Raises KeyError with the words `absent`, the arm in place of {},
    and the arms there are."""
    for one in each:
        if one.arm == arm:
            return one
    raise KeyError(f"{absent.format(repr(arm))}; there are {', '.join(one.arm for one in each)}")


def read_outcomes(
    frame: pd.DataFrame, baseline: str, metric: str, role: Role = "test"
) -> dict[str, Outcomes]:
    """The outcomes of every arm, in the frame's order, the baseline first.

    With `role="fixed"` (every arm at the baseline's rate) a baseline without fixed runs is read from its
    test runs, which are the same runs. Raises ValueError for a missing column, an unknown status, role or
    baseline, a duplicated record, a seed used for tuning and for testing, or a value that is not finite.
    """
    check_frame(frame, metric)
    arms = list(dict.fromkeys(frame["arm"].tolist()))
    if baseline not in arms:
        raise ValueError(f"baseline: {baseline!r} is no arm of this study; the arms are {', '.join(arms)}")
    if len(arms) < 2:
        raise ValueError(f"a comparison needs an arm beside the baseline {baseline!r}")
    runs: dict[tuple[str, str], list[_Run]] = {}
    plateau = frame["plateau"].tolist() if "plateau" in frame.columns else [False] * len(frame)
    for arm, of, seed, status, value, lost in zip(
        *(frame[c].tolist() for c in ("arm", "role", "seed", "status", metric)), plateau, strict=True
    ):
        runs.setdefault((arm, of), []).append((int(seed), status, value, bool(lost)))
    outcomes = {}
    for arm in [baseline, *(arm for arm in arms if arm != baseline)]:
        mine = runs.get((arm, role), [])
        if not mine and role == "fixed" and arm == baseline:
            mine = runs.get((arm, "test"), [])
        outcomes[arm] = _read_arm(arm, mine, metric)
    return outcomes


_Run = tuple[int, Any, Any, bool]  # seed, status, value, on a plateau


def check_frame(frame: pd.DataFrame, metric: str) -> None:
    """Raise ValueError where the frame is not one of a study."""
    absent = [column for column in (*_COLUMNS, metric) if column not in frame.columns]
    if absent:
        raise ValueError(
            f"the frame lacks the columns {', '.join(absent)}; it has {', '.join(frame.columns)}"
        )
    columns = {column: frame[column].tolist() for column in _COLUMNS}
    known = {
        "status": {value for value in columns["status"] if not pd.isna(value)},
        "role": set(columns["role"]),
    }
    for column, allowed in (("status", get_args(Status)), ("role", get_args(Role))):
        unknown = sorted(str(value) for value in known[column].difference(allowed))
        if unknown:
            raise ValueError(
                f"{column}: unknown value {', '.join(unknown)}; allowed are {', '.join(allowed)}"
            )
    if any(pd.isna(value) for column in ("arm", "seed") for value in columns[column]):
        raise ValueError("a record has no arm or no seed")
    seen = set()
    seeds: dict[str, set[int]] = {role: set() for role in get_args(Role)}
    for arm, seed, role in zip(columns["arm"], columns["seed"], columns["role"], strict=True):
        seeds[role].add(int(seed))
        if role == "tuning":  # runs one seed at many rates
            continue
        if (arm, seed, role) in seen:
            raise ValueError(
                f"duplicated record: arm {arm!r}, seed {seed}, role {role!r} stands more than once in the "
                "frame; keep one of them"
            )
        seen.add((arm, seed, role))
    shared = seeds["tuning"] & seeds["test"]
    if shared:
        raise ValueError(
            f"seeds {seed_list(shared)} are used for tuning and for testing; the two must be disjoint"
        )


def _read_arm(arm: str, runs: list[_Run], metric: str) -> Outcomes:
    values: dict[int, float] = {}
    missing: dict[int, str] = {}
    diverged: list[int] = []
    out_of_memory: list[int] = []
    for seed, status, value, _ in runs:
        if pd.isna(status):
            missing[seed] = "not run yet"
        elif status == "diverged":
            diverged.append(seed)
        elif status == "out_of_memory":
            out_of_memory.append(seed)
        elif status != "finished":
            missing[seed] = str(status)
        elif pd.isna(value):
            missing[seed] = f"finished without {metric}"
        elif math.isinf(value):
            raise ValueError(f"arm {arm!r}, seed {seed}: {metric} is {value} although the run finished")
        else:
            values[seed] = float(value)
    return Outcomes(
        arm=arm,
        values=values,
        diverged=tuple(diverged),
        plateau=tuple(seed for seed, *_, lost in runs if lost and seed in values),
        out_of_memory=tuple(out_of_memory),
        missing=missing,
        refused=bool(runs) and all(status == "refused" for _, status, *_ in runs),
    )


def seed_list(seeds: list[int] | set[int]) -> str:
    """Seeds in ascending order, as text."""
    return ", ".join(str(seed) for seed in sorted(seeds))
