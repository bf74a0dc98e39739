"""What each factor of a factorial does, in words, and where that depends on another factor.

The range over the combinations of the other factors is taken from the means of the arms, so that no average
hides a cell in which a factor does the opposite.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from ablate.amounts import interval_text, number, places_of
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.phrasing import clip, decimals
from ablate.study.report.summary import best_verdict, means

CellMeans = Mapping[tuple[str, ...], float]  # one level of each factor -> the mean of the metric


class LevelEffect(NamedTuple):
    """One level of a factor instead of the first: the differences in all combinations of the others."""

    factor: str
    level: str
    reference: str
    differences: list[float]


def factors_in_words(judgement: StudyJudgement) -> str:
    """What each factor does on every corpus, which factors depend on each other, and the best arm. Empty for
    other designs, and until every cell has its mean."""
    effects = [_effects_on(judged) for judged in judgement.corpora]
    if not all(effects):
        return ""
    names = [f" on {clip(judged.corpus)}" if judgement.several else "" for judged in judgement.corpora]
    study = judgement.study
    clauses = []
    for n, by_corpus in enumerate(zip(*effects, strict=True)):
        metric = study.metric if n == 0 else "it"
        clauses.append(
            effect_in_words(dict(zip(names, by_corpus, strict=True)), metric, study.better == "lower")
        )
    sentences = [f"{'; '.join(clauses)}.", _dependences(judgement), _best(judgement, names)]
    return " ".join(sentence for sentence in sentences if sentence)


def _effects_on(judged: Judged) -> list[LevelEffect]:
    comparison, factorial = judged.comparison, judged.factorial
    if comparison is None or factorial is None or factorial.waiting:
        return []
    known = means(comparison)
    cells = {
        tuple(arm.factors[factor] for factor in factorial.factors): known[arm.name]
        for arm in judged.arms
        if arm.factors and arm.name in known
    }
    return level_effects(factorial.factors, cells)


def _dependences(judgement: StudyJudgement) -> str:
    """The interactions whose interval excludes 0 on any corpus."""
    together = [
        " and ".join(effect.factors)
        for judged in judgement.corpora
        for effect in (judged.factorial.effects if judged.factorial else ())
        if effect.kind != "main" and not effect.low <= 0 <= effect.high
    ]
    groups = list(dict.fromkeys(together))
    if not groups:
        return ""
    return f"The effects of {', and of '.join(groups)}{',' if len(groups) > 1 else ''} depend on each other."


def _best(judgement: StudyJudgement, names: Sequence[str]) -> str:
    """The best arm of each corpus with its own verdict."""
    parts = []
    for judged, name in zip(judgement.corpora, names, strict=True):
        best = best_verdict(judged.comparison, judgement.manifest.placebo) if judged.comparison else None
        if best is None or best.word != "better":
            continue
        places = decimals(judged.comparison)
        effect = (
            f"{number(best.difference, places, True)} {interval_text(best.low, best.high, places)}".strip()
        )
        parts.append(f"{clip(best.arm)}{name} ({effect})")
    baseline = clip(judgement.manifest.baseline)
    return f"The best arm against {baseline} is {' and '.join(parts)}." if parts else ""


def level_effects(factors: Mapping[str, tuple[str, ...]], cells: CellMeans) -> list[LevelEffect]:
    """Every level against the first of its factor, in each combination of the other factors. Empty where a
    cell has no mean."""
    if any(cell not in cells for cell in product(*factors.values())):
        return []
    effects = []
    for place, (factor, levels) in enumerate(factors.items()):
        others = [range(1) if n == place else each for n, each in enumerate(factors.values())]
        for level in levels[1:]:
            differences = []
            for combination in product(*others):
                first, second = ([*map(str, combination)] for _ in range(2))
                first[place], second[place] = levels[0], level
                differences.append(cells[tuple(second)] - cells[tuple(first)])
            effects.append(LevelEffect(factor, level, levels[0], differences))
    return effects


def effect_in_words(effects: Mapping[str, LevelEffect], metric: str, lower_is_better: bool) -> str:
    """rope instead of sin lowers heldout/loss in all 4 combinations, by 0.19 to 0.44.

    `effects` has one level's effect by ` on CORPUS`, which is empty for a single corpus.
    """
    first = next(iter(effects.values()))
    differences = [difference for effect in effects.values() for difference in effect.differences]
    least, most, count = min(differences), max(differences), len(first.differences)
    places = places_of([max(abs(least), abs(most))])
    name = f"{clip(first.level)} instead of {clip(first.reference)}"
    if most < 0 or least > 0:
        verb = "lowers" if most < 0 else "raises"
        near, far = sorted((abs(least), abs(most)))
        everywhere = f" in all {count} combinations" if count > 1 else ""
        where = " and".join(effects)
        return (
            f"{name} {verb} {metric}{everywhere}{where}, by {number(near, places)} to {number(far, places)}"
        )
    verb = "lowers" if lower_is_better else "raises"
    shares: list[str] = []
    for where, effect in effects.items():
        good = sum((difference < 0) == lower_is_better for difference in effect.differences)
        shares.append(f"in {good} of {count} combinations{where}" if not shares else f"in {good}{where}")
    ends = f"{number(least, places, True)} to {number(most, places, True)}"
    return f"{name} {verb} {metric} {' and '.join(shares)} ({ends})"
