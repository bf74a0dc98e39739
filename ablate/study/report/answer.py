"""The answer of a study in words, and what must be known before it is believed."""

from collections.abc import Sequence
from itertools import groupby

from ablate.amounts import interval, number, places_of
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.scale import Scale, Trend, Word
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.phrasing import clip, decimals, seeds_needed, several, unit

NOT_TUNED = (
    "Fixed rate, not tuned: a demonstration. Every arm ran at the rate of its configuration, so an arm that "
    "this rate happens to suit looks better than it is."
)


def answer(judgement: StudyJudgement) -> str:
    """What the study found, and what size does to it."""
    placebo = judgement.manifest.placebo
    trends = with_size(judgement.scales, judgement.study.metric, placebo)
    return f"{verdicts_in_words(judgement.corpora, placebo)} {trends}".rstrip()


def banners(judgement: StudyJudgement) -> list[str]:
    """What must be known before a verdict is believed, worst first."""
    lines = []
    for corpus in judgement.corpora:
        where = f"{corpus.corpus}: " if judgement.several else ""
        if corpus.comparison is not None:
            lines += [f"{where}{warning}." for warning in corpus.comparison.warnings]
            if corpus.comparison.refused:
                refused = ", ".join(corpus.comparison.refused)
                lines.append(f"{where}{refused}: refused before training, so in no comparison.")
        lines += [f"{where}{mixed}." for mixed in corpus.mixed]
        lines += [f"{where}{problem}." for problem in corpus.problems]
        if corpus.comparison is None:
            lines.append(f"{where}No verdict: {corpus.reason}.")
    for scale in judgement.scales:
        if scale.comparison is None:
            lines.append(f"{scale.corpus}: no slope: {scale.reason}.")
        else:
            lines += [f"Slopes on {scale.corpus}: {warning}." for warning in scale.comparison.warnings]
    plan = judgement.manifest.plan
    rules = plan.moved_rules if plan else ()
    if rules:
        lines.append(f"The rules were changed since the plan was frozen: {'; '.join(rules)}.")
    if judgement.study.tune is None:
        lines.append(NOT_TUNED)
    return list(dict.fromkeys(lines))


def verdicts_in_words(judged: Sequence[Judged], placebo: str | None) -> str:
    """The study's answer in one sentence. With several corpora the numbers are left to the tables."""
    parts = {corpus.corpus: _answer(corpus, placebo, len(judged) == 1) for corpus in judged}
    if len(parts) == 1:
        return f"{next(iter(parts.values()))}."
    if len({*parts.values()}) == 1:
        return f"On {several(list(parts))}, {next(iter(parts.values()))}."
    sentence = "; ".join(f"on {corpus}, {part}" for corpus, part in parts.items())
    return f"{sentence[0].upper()}{sentence[1:]}."


def _answer(judged: Judged, placebo: str | None, effects: bool) -> str:
    comparison = judged.comparison
    if comparison is None:
        return f"there is no answer yet ({judged.reason})"
    verdicts = [verdict for verdict in comparison.verdicts if verdict.arm != placebo]
    clauses = []
    for each in ("better", "worse", "equivalent", "undecided", "waiting"):
        mine = [verdict for verdict in verdicts if verdict.word == each]
        lost = [verdict.arm for verdict in mine if each == "undecided" and verdict.mean is None]
        if found := [verdict for verdict in mine if verdict.arm not in lost]:
            clauses.append(_clause(each, found, comparison, effects))
        if lost:
            clauses.append(f"no run of {several(lost)} finished")
    for verdict in comparison.verdicts:
        if verdict.arm == placebo and verdict.word in ("better", "worse"):
            clauses.append(f"but the placebo came out {verdict.word}, so none of this can be trusted")
    return "; ".join(clauses) or "no arm could be compared"


def _clause(each: str, verdicts: list[Verdict], comparison: Comparison, effects: bool) -> str:
    baseline, places = clip(comparison.baseline), decimals(comparison)
    if comparison.better == "lower":
        verdicts = sorted(verdicts, key=lambda v: v.difference or 0)
    else:
        verdicts = sorted(verdicts, key=lambda v: -(v.difference or 0))
    arms = several([verdict.arm for verdict in verdicts])
    one = len(verdicts) == 1
    first = verdicts[0]
    effect = ""
    if effects and one and first.difference is not None:
        spread = interval(first.low, first.high, places)
        effect = f" ({number(first.difference, places, True)}{f' {spread}' if spread else ''})"
    lost = ", among the runs that finished" if any(v.conditional for v in verdicts) else ""
    if each in ("better", "worse"):
        small = " by less than the margin" if one and first.within_margin else ""
        return f"{arms} {'is' if one else 'are'} {each} than {baseline}{small}{effect}{lost}"
    if each == "equivalent":
        margin = f"\N{PLUS-MINUS SIGN}{comparison.margin:g}"
        return f"{arms} and {baseline} are equivalent within {margin}{effect}{lost}"
    if each == "undecided":
        needed = f"; {seeds_needed(first, comparison)}" if effects and one and first.seeds_needed else ""
        return f"{arms} and {baseline} cannot be told apart{effect}{needed}"
    return f"the verdict on {arms} waits for runs"


WITH_SIZE: dict[Word, str] = {
    "shrinks": "the gap of {arms} to {baseline} shrinks",
    "grows": "the gap of {arms} to {baseline} grows",
    "turns": "the gap of {arms} to {baseline} changes its sign",
    "moves": "the gap of {arms} to {baseline} moves, though no size decides its sign",
    "undecided": "whether the gap of {arms} to {baseline} moves is undecided",
    "waiting": "the gap of {arms} to {baseline} waits for runs",
}


def with_size(scales: Sequence[Scale], metric: str, placebo: str | None) -> str:
    """What size does to the gaps, in a sentence for each corpus; empty for a study without sizes."""
    said = []
    for scale in scales:
        where = f" on {clip(scale.text)}" if len(scales) > 1 else ""
        order = list(WITH_SIZE)
        trends = [found for found in scale.trends if found.arm != placebo]
        trends.sort(key=lambda found: order.index(found.word))
        clauses = [
            _with_size(word, list(mine), scale, metric)
            for word, mine in groupby(trends, lambda each: each.word)
        ]
        said.append(f"With size{where}, {'; '.join(clauses) or f'nothing can be said ({scale.reason})'}.")
    return " ".join(said)


def _with_size(word: Word, trends: list[Trend], scale: Scale, metric: str) -> str:
    clause = WITH_SIZE[word].format(
        arms=several([found.arm for found in trends]), baseline=clip(scale.baseline)
    )
    only = trends[0]
    if len(trends) > 1 or only.slope is None or only.low is None or only.high is None:
        return clause
    places = places_of([(only.high - only.low) / 2])
    said = f"{number(only.slope, places, True)} {interval(only.low, only.high, places)}"
    return f"{clause} ({said} {unit(metric)} per decade of parameters)"
