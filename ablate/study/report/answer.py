"""The answer of a study in a few plain sentences, and what must be known before it is believed."""

from collections.abc import Sequence
from itertools import groupby

from ablate.amounts import interval_text, number, places_of
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.scale import Scale, Trend
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.factors_in_words import factors_in_words
from ablate.study.report.phrasing import NAMED, capitalised, clip, decimals, seeds_needed, several, unit

UNTUNED_NOTE = (
    "Fixed rate, not tuned: a demonstration. Every arm ran at the rate of its configuration, so an arm that "
    "this rate happens to suit looks better than it is."
)
ORDER = ("better", "worse", "equivalent", "undecided", "lost", "waiting")  # in the order of a sentence


def answer(judgement: StudyJudgement) -> str:
    """What the study found: what each factor does, or each arm; then what size does to it."""
    placebo = judgement.manifest.placebo
    opening = factors_in_words(judgement) or verdicts_in_words(judgement.corpora, placebo)
    opening = capitalised(opening, names(judgement))
    sentences = [opening, with_size(judgement.scales, judgement.study.metric, placebo)]
    return " ".join(sentence for sentence in (*sentences, distrust(judgement)) if sentence)


def distrust(judgement: StudyJudgement) -> str:
    """A warning where the placebo, which equals the baseline, was decided."""
    for judged in judgement.corpora:
        for verdict in judged.comparison.verdicts if judged.comparison else ():
            if verdict.arm == judgement.manifest.placebo and verdict.word in ("better", "worse"):
                return f"But the placebo came out {verdict.word}, so none of this can be trusted."
    return ""


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
        lines.append(UNTUNED_NOTE)
    return [capitalised(line, names(judgement)) for line in dict.fromkeys(lines)]


def names(judgement: StudyJudgement) -> set[str]:
    """The words that a study has chosen itself: arms, corpora, and the levels of factors."""
    levels = {level for levels in judgement.study.design.factors.values() for level in levels}
    return (
        {arm.name for arm in judgement.manifest.arms} | {each.corpus for each in judgement.corpora} | levels
    )


def verdicts_in_words(judged: Sequence[Judged], placebo: str | None) -> str:
    """The verdicts in one sentence: with numbers for one corpus, by corpus or size for several."""
    compared = [corpus for corpus in judged if corpus.comparison is not None]
    lacking = [corpus for corpus in judged if corpus.comparison is None]
    clauses = []
    if len(judged) == 1 and compared:
        clauses = _of_one(compared[0], placebo)
    elif compared:
        clauses = _of_several(compared, placebo)
    for corpus in lacking:
        where = f" {_where([corpus])}" if len(judged) > 1 else ""
        clauses.append(f"there is no answer yet{where} ({corpus.reason})")
    sentence = "; ".join(clauses) or "no arm could be compared"
    return f"{sentence}."


def _of_one(judged: Judged, placebo: str | None) -> list[str]:
    comparison = judged.comparison
    assert comparison is not None
    verdicts = [verdict for verdict in _best_first(comparison) if verdict.arm != placebo]
    groups = {word: [v for v in verdicts if _word(v) == word] for word in ORDER}
    return [_clause(word, group, comparison) for word, group in groups.items() if group]


def _of_several(judged: Sequence[Judged], placebo: str | None) -> list[str]:
    """First the arms with one verdict everywhere, then each other arm with where it has which."""
    first = judged[0].comparison
    assert first is not None
    words: dict[str, tuple[str, ...]] = {}
    for verdict in _best_first(first):
        if verdict.arm != placebo:
            words[verdict.arm] = tuple(
                _word(corpus.comparison.verdict(verdict.arm)) for corpus in judged if corpus.comparison
            )
    clauses = []
    for word in ORDER:
        arms = [arm for arm, each in words.items() if set(each) == {word}]
        if arms:
            clauses.append(f"{_statement(word, arms, first)} {_where(judged)}")
    for arm, each in words.items():
        if len(set(each)) > 1:
            parts = []
            for word in dict.fromkeys(each):
                places = [corpus for corpus, theirs in zip(judged, each, strict=True) if theirs == word]
                parts.append(f"{WORD_IN_PLACE[word]} {_where(places)}")
            clauses.append(f"{clip(arm)} is {' and '.join(parts)}")
    return clauses


WORD_IN_PLACE = {"lost": "without a finished run", "waiting": "waiting for runs"} | {
    word: word for word in ("better", "worse", "equivalent", "undecided")
}


def _where(judged: Sequence[Judged]) -> str:
    """On english and cppdocs; at 0.2M and 0.8M."""
    sizes = all(corpus.size and corpus.corpus == corpus.size for corpus in judged)
    return f"{'at' if sizes else 'on'} {several([corpus.corpus for corpus in judged])}"


def _best_first(comparison: Comparison) -> list[Verdict]:
    sign = 1 if comparison.better == "lower" else -1
    return sorted(comparison.verdicts, key=lambda verdict: sign * (verdict.difference or 0.0))


def _word(verdict: Verdict) -> str:
    return "lost" if verdict.word == "undecided" and verdict.mean is None else verdict.word


def _statement(word: str, arms: Sequence[str], comparison: Comparison) -> str:
    """What holds of these arms, without numbers."""
    baseline, one = clip(comparison.baseline), len(arms) == 1
    names = several(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
    if word in ("better", "worse"):
        return f"{names} {'is' if one else 'are'} {word} than {baseline}"
    if word == "equivalent":
        margin = f"\N{PLUS-MINUS SIGN}{comparison.margin:g}"
        return f"{names} {'is' if one else 'are'} equivalent to {baseline} within {margin}"
    if word == "undecided":
        return f"whether {names} {'differs' if one else 'differ'} from {baseline} is undecided"
    if word == "lost":
        return f"no run of {names} finished"
    return f"the verdict on {names} waits for runs"


def _clause(word: str, verdicts: list[Verdict], comparison: Comparison) -> str:
    """The statement with its numbers: those of the only arm, or of the first of many."""
    text = _statement(word, [verdict.arm for verdict in verdicts], comparison)
    one, first = len(verdicts) == 1, verdicts[0]
    if word in ("lost", "waiting"):
        return text
    if one and word in ("better", "worse") and first.within_margin:
        text += " by less than the margin"
    if one:
        text += _effect(first, comparison)
    elif len(verdicts) > NAMED and word in ("better", "worse"):
        most = first if word == "better" else verdicts[-1]
        text += f", most of all {clip(most.arm)}{_effect(most, comparison)}"
    if any(verdict.conditional for verdict in verdicts):
        text += ", among the runs that finished"
    if one and word == "undecided" and first.seeds_needed:
        text += f"; {seeds_needed(first, comparison)}"
    return text


def _effect(verdict: Verdict, comparison: Comparison) -> str:
    if verdict.difference is None:
        return ""
    places = decimals(comparison)
    ends = interval_text(verdict.low, verdict.high, places)
    return f" ({number(verdict.difference, places, True)}{f' {ends}' if ends else ''})"


WITH_SIZE = {
    "shrinks": "the gap to {baseline} shrinks for {arms}",
    "grows": "the gap to {baseline} grows for {arms}",
    "turns": "the gap to {baseline} changes its sign for {arms}",
    "moves": "the gap to {baseline} moves for {arms}, though no size decides its sign",
    "undecided": "the gap to {baseline} shows no significant trend for {arms}",
    "waiting": "the gap to {baseline} waits for runs of {arms}",
}


def with_size(scales: Sequence[Scale], metric: str, placebo: str | None) -> str:
    """What size does to the gaps, in a sentence for each corpus; empty for a study without sizes."""
    sentences = []
    for scale in scales:
        where = f" on {clip(scale.text)}" if len(scales) > 1 else ""
        order = list(WITH_SIZE)
        trends = [trend for trend in scale.trends if trend.arm != placebo]
        trends.sort(key=lambda trend: order.index(trend.word))
        clauses = [
            _with_size(word, list(group), scale, metric)
            for word, group in groupby(trends, lambda trend: trend.word)
        ]
        text = "; ".join(clauses) or f"nothing can be said ({scale.reason})"
        sentences.append(f"With size{where}, {text}.")
    return " ".join(sentences)


def _with_size(word: str, trends: list[Trend], scale: Scale, metric: str) -> str:
    arms = several([trend.arm for trend in trends])
    clause = WITH_SIZE[word].format(arms=arms, baseline=clip(scale.baseline))
    only = trends[0]
    if len(trends) > 1 or only.slope is None or only.low is None or only.high is None:
        return clause
    places = places_of([(only.high - only.low) / 2])
    slope = f"{number(only.slope, places, True)} {interval_text(only.low, only.high, places)}"
    return f"{clause} ({slope} {unit(metric)} per decade of parameters)"
