"""How verdicts and numbers are put into words."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.scale import Scale, Trend, TrendWord

MINUS = "\N{MINUS SIGN}"
NAMED = 4  # arms in a sentence; the rest are counted
LONGEST = 26  # letters of a name in a sentence or a figure; tables have all of it
NOT_TUNED = (
    "Fixed rate, not tuned: a demonstration. Every arm ran at the rate of its configuration, so an arm that "
    "this rate happens to suit looks better than it is."
)


def decimals(comparison: Comparison | None) -> int:
    """Enough for two digits of the narrowest interval's half."""
    halves = [
        (verdict.high - verdict.low) / 2
        for verdict in (comparison.verdicts if comparison else ())
        if verdict.low is not None and verdict.high is not None and verdict.high > verdict.low
    ]
    return places_of(halves) if halves else 4


def places_of(halves: Iterable[float]) -> int:
    """Enough decimals for two digits of the least of these half-widths."""
    least = min((half for half in halves if half > 0), default=0.01)
    return min(6, max(2, 1 - math.floor(math.log10(least))))


def unit(metric: str) -> str:
    return "nats" if metric.endswith("loss") else metric


def number(value: float | None, places: int, signed: bool = False) -> str:
    """1.2345 -> 1.23; nothing for None. A minus sign is one."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:{'+' if signed else ''}.{places}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, places: int, signed: bool = True) -> str:
    if low is None or high is None:
        return ""
    return f"[{number(low, places, signed)}, {number(high, places, signed)}]"


def short(value: float | None, digits: int = 3) -> str:
    """Significant digits, for numbers of any size."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{digits}g}".replace("-", MINUS)


def probability(p: float | None) -> str:
    if p is None or math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def clip(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def several(names: Sequence[str]) -> str:
    """a, b and c; beyond four, how many more."""
    names = [clip(name) for name in names]
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def numbers(seeds: Iterable[int]) -> str:
    """0 to 5, 8: runs of numbers are drawn together."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in ranges)


def word(verdict: Verdict) -> str:
    """The verdict in a word or two."""
    small = ", by less than the margin" if verdict.within_margin else ""
    return f"{verdict.word}{small}"


def seeds_needed(verdict: Verdict, comparison: Comparison) -> str:
    """How many seeds an undecided verdict asks for, from its noise alone."""
    margin = f"{comparison.margin or 0:g}"
    if verdict.seeds_needed is None:
        return ""
    if verdict.seeds_needed > verdict.n:
        return f"about {verdict.seeds_needed} seeds would make the interval as narrow as the margin {margin}"
    return (
        f"the interval is as narrow as the margin {margin} already; the difference lies near one of its ends"
    )


def answer(judged: Sequence[Judged], placebo: str | None) -> str:
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


WITH_SIZE: dict[TrendWord, str] = {
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


def _with_size(word: TrendWord, trends: list[Trend], scale: Scale, metric: str) -> str:
    clause = WITH_SIZE[word].format(
        arms=several([found.arm for found in trends]), baseline=clip(scale.baseline)
    )
    only = trends[0]
    if len(trends) > 1 or only.slope is None or only.low is None or only.high is None:
        return clause
    places = places_of([(only.high - only.low) / 2])
    said = f"{number(only.slope, places, True)} {interval(only.low, only.high, places)}"
    return f"{clause} ({said} {unit(metric)} per decade of parameters)"
