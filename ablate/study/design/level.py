"""How a study spends alpha: the chance that it decides anything where nothing differs.

alpha is split over the tables of decisions that the study declares: in each corpus and size the verdicts and
the effects of the design's factors, on each corpus the slopes over sizes. What it asks beside them has levels
of its own, which are said.
"""

from collections.abc import Sequence

from ablate.study.design.claim import SCALE, declared, extra, is_exact
from ablate.study.design.planned import PlannedArm
from ablate.study.design.study import WITH_EFFECTS, Study


def has_effects(study: Study) -> bool:
    """Whether effects of the design's factors are judged beside the verdicts."""
    return study.effects and study.design.kind in WITH_EFFECTS and not declared(study.metric)


def held_to_the_end(study: Study, arms: Sequence[PlannedArm], arm: str) -> str:
    """Why an arm gets all seeds, however early its verdict is decided; empty where it may stop.

    An effect of factors is a contrast of all cells at one seed, a slope one of all sizes, and counts of few
    runs decide little.
    """
    if declared(study.metric):
        return "runs that solve their task are counted"
    if study.sizes:
        return "its slope over sizes takes every size at each seed"
    if has_effects(study) and any(each.name == arm and each.factors for each in arms):
        return "the effects of factors take every cell at each seed"
    return ""


def table_alpha(study: Study, judged_before: int = 0) -> float:
    """The level of each declared table.

    `judged_before` counts the amendments before which the study may have been judged at other seeds. What
    those have spent cannot be taken back; each later judgement has half of the one before.
    """
    slopes = len({block.corpus for block in study.blocks}) if study.sizes else 0
    tables = len(study.blocks) * (1 + has_effects(study)) + slopes
    alpha: float = study.alpha / tables / 2**judged_before
    return alpha


def other_families(study: Study, baseline: str) -> list[str]:
    """What is decided beside the declared tables, in each corpus and size, each at the level of one table."""
    families = ["stability"]
    if study.tune is not None and study.tune.fixed_rate_table:
        families.append("the table at the baseline's rate")
    on_metric = [claim.parsed for claim in study.claims if claim.measure in (None, study.metric)]
    if any(extra(predicate, baseline) for predicate in on_metric):
        families.append("claims that are not on a verdict")
    measures = dict.fromkeys(claim.measure for claim in study.claims if claim.measure)
    others = [name for name in measures if name not in (study.metric, SCALE, "stability/failed")]
    return families + [f"claims on {name}" for name in others if not is_exact(name)]


def true_level(study: Study, baseline: str, judged_before: int = 0) -> float:
    """An upper bound on the chance that anything is decided in a study in which nothing differs."""
    each = table_alpha(study, judged_before)
    spent = study.alpha * (2 - 0.5**judged_before)
    return min(1.0, spent + each * len(study.blocks) * len(other_families(study, baseline)))
