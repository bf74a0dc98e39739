"""The frozen plan: what was declared before the first test run, and what was changed since.

`experiments/NAME/plan.json` holds the study and the specifications of its arms as they were frozen, with a
date and a hash. It is never rewritten; later versions are appended as amendments.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.record import atomic
from ablate.spec import Strict, digest
from ablate.study.design.differences import ABSENT, walk
from ablate.study.design.planned import Plan
from ablate.study.design.study import StudyError, plain_yaml

NAME = "plan.json"


class Version(Strict):
    """A study as it stood at a date. `file` is the SHA-256 of study.yaml; `hash` that of all the rest."""

    date: str  # ISO 8601, UTC
    file: str
    study: dict[str, Any]  # study.yaml as plain data
    arms: dict[str, Any]  # `corpus/arm` -> specification
    test_runs: int  # that had ended by then: 0 for a plan frozen in time
    hash: str

    @property
    def content(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"hash"}))


class Amendment(Strict):
    """One path of the study or of an arm's specification that is not as it was frozen."""

    path: str
    frozen: Any
    now: Any
    date: str = ""  # of the version that brought it; empty where it is not written down yet

    def __str__(self) -> str:
        return f"{self.path}: {self.frozen!r} -> {self.now!r}"


class Frozen(Strict):
    """The plan as frozen, and every version since."""

    versions: tuple[Version, ...]

    @property
    def first(self) -> Version:
        return self.versions[0]

    @property
    def amendments(self) -> tuple[Amendment, ...]:
        """Each change in the order in which it was written down."""
        changes: list[Amendment] = []
        for before, after in zip(self.versions, self.versions[1:], strict=False):
            changes += _changes(before, after, after.date)
        return tuple(changes)

    @property
    def judged_before(self) -> int:
        """How often the seeds or the looks were changed after test runs had ended: each time the study may
        have been judged before, and alpha is spent."""
        return sum(
            after.test_runs > 0
            and any(before.study.get(key) != after.study.get(key) for key in ("seeds", "interim_seeds"))
            for before, after in zip(self.versions, self.versions[1:], strict=False)
        )

    def declared(self) -> set[str]:
        """The names that the first version declares: arms, the metric, measures and claims."""
        study = self.first.study
        names = {place.rpartition("/")[2] for place in self.first.arms}
        names |= {str(claim["id"]) for claim in study.get("claims", ())}
        return names | {str(m) for m in study.get("measures", ())} | {study.get("metric", "heldout/loss")}

    def exploratory(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names (arms, metrics, claims of a report) that were not declared."""
        declared = self.declared()
        return tuple(name for name in names if name not in declared)


def freeze(study_file: Path, plan: Plan, test_runs: int = 0) -> Frozen:
    """Write the plan beside study.yaml, or append a version where it has changed since; return what stands.

    `test_runs` is how many test runs have ended already. Raises as `frozen` does.
    """
    version = current(study_file, plan, test_runs)
    there = frozen(study_file.parent)
    if there is not None and not _changes(there.versions[-1], version, ""):
        return there
    after = Frozen(versions=(*(there.versions if there else ()), version))
    with atomic(study_file.parent / NAME) as f:
        f.write(json.dumps(after.model_dump(mode="json"), indent=1, allow_nan=False).encode())
    return after


def frozen(folder: Path) -> Frozen | None:
    """The frozen plan of an experiment, None where there is none. Raises StudyError where plan.json
    cannot be read or was edited by hand."""
    file = folder / NAME
    try:
        kept = Frozen.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StudyError(
            [f"{file}: it is no frozen plan: {error.errors()[0]['msg']}; restore the file"]
        ) from None
    for version in kept.versions:
        if version.hash != version.content:
            raise StudyError(
                [f"{file}: the version of {version.date} was edited after it was frozen; restore the file"]
            )
    if not kept.versions:
        raise StudyError([f"{file}: it holds no version; restore the file"])
    return kept


def current(study_file: Path, plan: Plan, test_runs: int = 0) -> Version:
    """The study as it stands now."""
    version = Version(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        file=hashlib.sha256(study_file.read_bytes()).hexdigest(),
        study=json.loads(json.dumps(plain_yaml(study_file), default=str)),
        arms={f"{arm.corpus}/{arm.name}": arm.spec for arm in plan.arms},
        test_runs=test_runs,
        hash="",
    )
    return version.model_copy(update={"hash": version.content})


def amendments(kept: Frozen, study_file: Path, plan: Plan) -> tuple[Amendment, ...]:
    """All that is not as the first version says: none means "as planned"."""
    return tuple(_changes(kept.first, current(study_file, plan), ""))


def _changes(before: Version, after: Version, date: str) -> list[Amendment]:
    both = before.arms.keys() & after.arms.keys()  # an arm that is new or gone is one path
    old, new = _flat(before, both), _flat(after, both)
    return [
        Amendment(path=path, frozen=old.get(path, ABSENT), now=new.get(path, ABSENT), date=date)
        for path in sorted({*old, *new})
        if path not in old or path not in new or old[path] != new[path]
    ]


def _flat(version: Version, within: Collection[str]) -> dict[str, Any]:
    """Path -> value: what study.yaml says, the arms there are, and what those of `within` came to."""
    flat: dict[str, Any] = {}
    claims = {claim["id"]: claim for claim in version.study.get("claims") or ()}
    walk("study", {**version.study, "claims": claims}, flat)
    for place, spec in version.arms.items():
        flat[f"arms[{place}]"] = "planned"
        if place in within:
            walk(f"arms[{place}]", spec, flat)
    return flat
