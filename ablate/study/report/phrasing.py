"""How verdicts and numbers are put into words."""

import re
from collections.abc import Iterable, Sequence

from ablate.amounts import places_of
from ablate.study.judge.compare import Comparison, Verdict

NAMED = 4  # arms in a sentence; the rest are counted
LINE = 20  # letters in a line beside a figure
_LONGEST = 26  # letters of a name in a sentence or a figure; tables have all of it


def decimals(comparison: Comparison | None) -> int:
    """Enough for two digits of the narrowest interval's half."""
    halves = [
        (verdict.high - verdict.low) / 2
        for verdict in (comparison.verdicts if comparison else ())
        if verdict.low is not None and verdict.high is not None and verdict.high > verdict.low
    ]
    return places_of(halves) if halves else 4


def unit(metric: str) -> str:
    """The unit of a metric: nats for a loss, else its own name."""
    return "nats" if metric.endswith("loss") else metric


def clip(name: str, most: int = _LONGEST) -> str:
    """Shorten a name to at most so many letters, with an ellipsis at its end."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def capitalised(sentence: str, names: Iterable[str]) -> str:
    """The sentence with a capital first, unless it begins with one of the names, which stay as they are."""
    if any(sentence.startswith(clip(name)) for name in names):
        return sentence
    return sentence[:1].upper() + sentence[1:]


def pieces(name: str) -> list[str]:
    """The name cut after each + and - inside a word, where a line may end: post+sin -> post+, sin."""
    return re.split(r"(?<=\w[+-])(?=\w)", name) if name else []


def in_lines(name: str) -> str:
    """The name of an arm beside a row of a figure: broken at + and -, no line longer than `LINE`."""
    lines = [""]
    for piece in pieces(clip(name, 2 * LINE)):
        if lines[-1] and len(lines[-1]) + len(piece) > LINE:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def several(names: Sequence[str]) -> str:
    """a, b and c; beyond four, how many more."""
    names = [clip(name) for name in names]
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def seed_ranges(seeds: Iterable[int]) -> str:
    """0 to 5, 8: runs of numbers are drawn together."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in ranges)


def verdict_in_words(verdict: Verdict) -> str:
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
