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
