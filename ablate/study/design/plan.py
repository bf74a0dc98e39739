"""The plan of a study: every arm composed, checked, matched, and proven to differ only where it may.

What needs torch is asked of the `Backend`: to compose overrides to a specification, and to check it. All
mistakes of all arms are shown at once.
"""

from collections.abc import Sequence

from ablate.study.design.arms import expand
from ablate.study.design.backend import Backend
from ablate.study.design.gates import Planning
from ablate.study.design.planned import (
    Plan,
    PlannedArm,
)
from ablate.study.design.runs import DECAY, tokens_of
from ablate.study.design.study import Study, StudyError


def plan(study: Study, backend: Backend) -> Plan:
    """Plan a study. Raises StudyError with all that is wrong with its arms."""
    arms = expand(study)
    mistakes: list[str] = []
    warnings: list[str] = []
    knobs: dict[str, int] = {}
    planned: list[PlannedArm] = []
    for corpus, overrides in study.places.items():
        planning = Planning(study, corpus, overrides, arms, backend, knobs)
        planned += planning.run()
        mistakes += planning.mistakes
        warnings += planning.warnings
    if mistakes:
        raise StudyError(mistakes)
    _check_corpora(study, planned)
    _check_sizes(study, planned)
    _check_stems(study, planned)
    if study.design.kind == "factorial" and study.exclude:
        warnings.append("cells of the factorial are excluded: its effects and interactions cannot be fitted")
    return Plan(study, tuple(planned), tuple(dict.fromkeys(warnings)))


def _check_corpora(study: Study, arms: Sequence[PlannedArm]) -> None:
    """Raise StudyError where two corpora are the same runs, which would count as two."""
    seen: dict[tuple[str, str], str] = {}
    for block in study.blocks:
        baseline = next(arm for arm in arms if arm.corpus == block.name)
        first = seen.setdefault((block.size, baseline.facts.id), block.corpus)
        if first != block.corpus:
            raise StudyError(
                [f"corpora: {first} and {block.corpus} are the same; each needs a text of its own"]
            )


def _check_sizes(study: Study, arms: Sequence[PlannedArm]) -> None:
    """Raise StudyError where two sizes have equally many parameters: they are one point of a line."""
    seen: dict[tuple[str, float], str] = {}
    for block in study.blocks if study.sizes else ():
        baseline = next(arm for arm in arms if arm.corpus == block.name)
        parameters = baseline.facts.parameters["non_embedding"]
        first = seen.setdefault((block.corpus, parameters), block.size)
        if first != block.size:
            raise StudyError([f"sizes: {first} and {block.size} both have {parameters:,.0f} parameters"])


def _check_stems(study: Study, arms: Sequence[PlannedArm]) -> None:
    """Raise StudyError where the runs of an arm at several budgets would not share their first steps."""
    mistakes = []
    for arm in arms if study.budgets else ():
        schedule, budget = arm.spec.get("schedule", {}), arm.spec["budget"]
        if schedule.get("name") != "wsd" or not isinstance(schedule.get("warmup"), int):
            mistakes.append(
                f"budgets: arm {arm.name}: runs share a stem on the schedule wsd with a warm-up in steps "
                "alone; say schedule=wsd schedule.warmup=100, or as many steps as suit, in base"
            )
            continue
        steps = tokens_of(arm, study.budgets[0]) // budget["batch_tokens"]
        if steps - round(schedule.get("decay", DECAY) * steps) <= schedule["warmup"]:
            mistakes.append(
                f"budgets: arm {arm.name}: at {study.budgets[0]:g} of the tokens there are {steps} steps, "
                f"and the decay would begin in the warm-up of {schedule['warmup']}; give a larger share"
            )
    if mistakes:
        raise StudyError(mistakes)
