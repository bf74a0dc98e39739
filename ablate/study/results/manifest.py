"""What a study is, as its results keep it: its rules, its arms, the frozen plan."""

from dataclasses import replace
from typing import Any

from pydantic import Field, field_serializer, field_validator, model_validator

from ablate.spec import Strict
from ablate.study.design.freeze import Amendment
from ablate.study.design.planned import PlannedArm
from ablate.study.design.study import Study
from ablate.study.design.study import parse_study as read_study

RULES = tuple(
    f"study.{rule}"
    for rule in ("seeds", "interim_seeds", "equivalence_margin", "alpha", "metric", "better", "interval")
)
COSTS_OF_ARM = ("parameters", "flops_per_token", "kv_bytes_per_token", "memory_bytes")


class PlanRecord(Strict):
    """The frozen plan, and how the study as it stands departs from it."""

    hash: str
    date: str
    test_runs: int  # that had ended when it was frozen
    amendments: tuple[Amendment, ...]
    exploratory: tuple[str, ...]
    judged_before: int = 0  # versions with other seeds or looks that came after test runs had ended

    @property
    def moved_rules(self) -> tuple[str, ...]:
        """The amendments of the rules that verdicts are read by."""
        return tuple(str(change) for change in self.amendments if change.path in RULES)


class Manifest(Strict):
    """The content of study.json. `spec` is the baseline's on the first corpus, without its seed.

    Arms are those of the plan without their own specification and parameter tree: `spec` and what `differs`
    give these. Arms in files of earlier versions, which held their costs beside their names, are read too.
    """

    name: str
    study: Study  # in the file: as study.yaml would say it
    baseline: str
    placebo: str | None
    arms: tuple[PlannedArm, ...]
    spec: dict[str, Any]
    plan: PlanRecord | None
    notes: tuple[str, ...]  # warnings of the plan, arms that had no rate of their own
    reference: dict[str, dict[str, float]] = Field({})  # by corpus: n-gram losses on validation

    @model_validator(mode="before")
    @classmethod
    def _flat_arms(cls, stored: Any) -> Any:
        """Put the costs of an arm of an earlier version where `PlannedArm` has them."""
        if not isinstance(stored, dict) or not isinstance(stored.get("arms"), list):
            return stored
        arms = []
        for arm in stored["arms"]:
            if isinstance(arm, dict) and "facts" not in arm:
                facts = {name: arm[name] for name in COSTS_OF_ARM if name in arm}
                others = {name: value for name, value in arm.items() if name not in COSTS_OF_ARM}
                arm = {**others, "spec": {}, "facts": facts}
            arms.append(arm)
        return {**stored, "arms": arms}

    @field_validator("study", mode="before")
    @classmethod
    def _read_study(cls, stored: Any) -> Any:
        if not isinstance(stored, dict):
            return stored
        tune = stored.get("tune")
        if isinstance(tune, dict) and "fixed_rate_table" not in tune:
            stored = {**stored, "tune": {**tune, "fixed_rate_table": True}}  # every tuned study had one
        return read_study(stored)

    @field_serializer("study")
    def _write_study(self, study: Study) -> dict[str, Any]:
        return study_as_yaml(study)

    def on(self, corpus: str) -> tuple[PlannedArm, ...]:
        """The arms on one corpus, the baseline first."""
        return tuple(arm for arm in self.arms if arm.corpus == corpus)


def without_model(arm: PlannedArm) -> PlannedArm:
    """The arm as results keep it: without its specification and the hashes of its parameters and output."""
    return replace(arm, spec={}, facts=replace(arm.facts, tree={}, output=""))


def study_as_yaml(study: Study) -> dict[str, Any]:
    """Return the study as study.yaml would say it, every field written out; `design.study.read` reads it."""
    written: dict[str, Any] = study.model_dump(mode="json", by_alias=True)
    tune = written.pop("tune")
    written["tune"] = "fixed" if tune is None else {tune.pop("path"): tune.pop("rates"), **tune}
    return written
