"""The grammar of claims: what a study says beforehand about its arms."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import FiniteFloat, field_validator

from ablate.spec import Strict

Relation = Literal["<", ">"]


_Kind = Literal["ordered", "equivalent", "ratio", "level"]


SCALE = "scale/slope"  # how the metric falls with size: `none < rope` says that the gap falls


# Measures that are numbers of several runs, not of one: what may be claimed of them.
OF_SEVERAL: dict[str, tuple[_Kind, ...]] = {
    "stability/failed": ("ordered", "level"),  # the share of test runs that diverged
    "tuning/sensitivity": ("ordered", "equivalent"),  # what a wrong rate costs, in nats
    "tuning/failed": ("ordered", "level"),  # the share of tuning runs that failed
    SCALE: ("ordered", "equivalent"),  # per decade of parameters; a level would be no gap
}


_EXACT = ("cost/", "counts/")  # metrics of the architecture: the same at every seed


TIMING = "timing/"  # seconds of the arms, timed in turn: ratios alone, for machines differ


class Ordered(Strict):
    """first < second + offset, and so on along the chain (two arms or more; the offset with two only)."""

    kind: Literal["ordered"] = "ordered"
    arms: tuple[str, ...]
    relation: Relation
    offset: float = 0.0


class Equivalent(Strict):
    """|first - second| < margin."""

    kind: Literal["equivalent"] = "equivalent"
    arms: tuple[str, str]
    margin: float


class Ratio(Strict):
    """first / second compared with a number."""

    kind: Literal["ratio"] = "ratio"
    arms: tuple[str, str]
    relation: Literal["<", ">", "=="]
    value: float
    within: float = 0.0


class Level(Strict):
    """The mean of one arm compared with a number."""

    kind: Literal["level"] = "level"
    arms: tuple[str]
    relation: Literal["<", ">", "=="]
    value: float
    within: float = 0.0


Predicate = Ordered | Equivalent | Ratio | Level


class Published(Strict):
    """What a paper found, and where: first - second of the claim's arms (for a ratio the ratio, for a level
    the level)."""

    effect: FiniteFloat
    error: FiniteFloat | None = None  # standard error, if given
    source: str
    differs: str = ""  # why ours may differ


class Claim(Strict):
    """One entry of `claims:` in study.yaml. `measure` is the study's metric where it is left out."""

    id: str
    predicate: str
    measure: str | None = None
    predicted: FiniteFloat | None = None  # the effect expected at our scale, for the warning before launch
    published: Published | None = None

    @field_validator("predicate")
    @classmethod
    def _parses(cls, text: str) -> str:
        parse(text)
        return text

    @property
    def parsed(self) -> Predicate:
        return parse(self.predicate)


def kinds(measure: str) -> tuple[_Kind, ...]:
    """The kinds of claims that a measure allows."""
    if counts(measure):
        return ("ordered", "level")
    if measure.startswith(TIMING):
        return ("ratio",)
    return OF_SEVERAL.get(measure, ("ordered", "equivalent", "ratio", "level"))


def counts(measure: str) -> bool:
    """Whether a measure counts runs: it has no interval for a difference."""
    return measure.rpartition("/")[2] in ("failed", "solved")


def of_runs(claims: Sequence[Claim]) -> list[str]:
    """The measures claimed on that every single run has."""
    named = [claim.measure for claim in claims if claim.measure]
    return [name for name in named if name not in OF_SEVERAL and not name.startswith(TIMING)]


_TOKEN = re.compile(
    r"""\s*(?: "(?P<quoted>[^"]+)"
        | (?P<operator>==|[<>~/+]|-(?=\s))
        | (?P<number>-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![-+]?[A-Za-z0-9_.])
        | (?P<word>[A-Za-z0-9_.]+(?:[-+][A-Za-z0-9_.]+)*)
        )""",
    re.VERBOSE,
)


def parse(text: str) -> Predicate:
    """Read a predicate. Raises ValueError that quotes it and says what is expected where."""
    tokens = _Tokens(text)
    first = tokens.name()
    operator = tokens.operator("<", ">", "~", "/", "==")
    if operator == "==" or (operator in "<>" and tokens.at_number):
        predicate: Predicate = _level(tokens, first, operator)
    elif operator == "/":
        predicate = _ratio(tokens, first)
    elif operator == "~":
        second = tokens.name()
        tokens.word("within")
        predicate = Equivalent(arms=(first, second), margin=tokens.positive())
    else:
        predicate = _chain(tokens, first, operator)
    tokens.end()
    if len(set(predicate.arms)) < len(predicate.arms):
        raise ValueError(f"claim {text!r}: an arm is compared with itself")
    return predicate


def _ratio(tokens: "_Tokens", first: str) -> Predicate:
    second = tokens.name()
    relation = tokens.operator("==", "<", ">")
    value = tokens.positive()
    within = 0.0
    if relation == "==" and not tokens.finished:
        tokens.word("within")
        within = tokens.positive()
    return Ratio.model_validate(
        {"arms": (first, second), "relation": relation, "value": value, "within": within}
    )


def _level(tokens: "_Tokens", arm: str, relation: str) -> Level:
    value = tokens.number()
    within = 0.0
    if relation == "==" and not tokens.finished:
        tokens.word("within")
        within = tokens.positive()
    return Level.model_validate({"arms": (arm,), "relation": relation, "value": value, "within": within})


def _chain(tokens: "_Tokens", first: str, relation: str) -> Predicate:
    arms = [first, tokens.name()]
    offset = 0.0
    while not tokens.finished:
        operator = tokens.operator(*((relation, "+", "-") if len(arms) == 2 else (relation,)))
        if operator == relation:
            arms.append(tokens.name())
        else:
            offset = tokens.positive() * (1 if operator == "+" else -1)
            break
    return Ordered.model_validate({"arms": tuple(arms), "relation": relation, "offset": offset})


class _Tokens:
    """The tokens of a predicate, taken one by one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []  # (kind, text)
        self.next = 0
        at = 0
        end = len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(
                    f"claim {text!r}: {text[at:].strip()!r} is not understood; allowed are arms, numbers, "
                    "<, >, ~, /, ==, +, - and `within`"
                )
            kind = str(match.lastgroup)
            self.tokens.append((kind, match[kind]))
            at = match.end()

    @property
    def finished(self) -> bool:
        return self.next >= len(self.tokens)

    def _take(self, what: str) -> tuple[str, str]:
        if self.finished:
            raise ValueError(f"claim {self.text!r}: it ends where {what} is expected")
        self.next += 1
        return self.tokens[self.next - 1]

    def _refuse(self, token: str, what: str) -> ValueError:
        return ValueError(f"claim {self.text!r}: {token!r} stands where {what} is expected")

    @property
    def at_number(self) -> bool:
        return not self.finished and self.tokens[self.next][0] == "number"

    def name(self) -> str:
        kind, token = self._take("an arm")
        if kind == "number":
            raise self._refuse(token, "an arm (put one whose name is a number in double quotes)")
        if kind == "operator":
            raise self._refuse(token, "an arm")
        return token

    def operator(self, *allowed: str) -> str:
        what = "one of " + " ".join(allowed)
        kind, token = self._take(what)
        if kind != "operator" or token not in allowed:
            raise self._refuse(token, what)
        return token

    def word(self, expected: str) -> None:
        kind, token = self._take(f"`{expected}`")
        if kind != "word" or token != expected:
            raise self._refuse(token, f"`{expected}`")

    def number(self) -> float:
        kind, token = self._take("a number")
        number = float(token) if kind == "number" else float("nan")
        if not np.isfinite(number):
            raise self._refuse(token, "a number")
        return number

    def positive(self) -> float:
        kind, token = self._take("a positive number")
        number = float(token) if kind == "number" else float("nan")
        if not (np.isfinite(number) and number > 0):
            raise self._refuse(token, "a positive number")
        return number

    def end(self) -> None:
        if not self.finished:
            raise self._refuse(self.tokens[self.next][1], "the end")


def pairs(predicate: Predicate) -> list[tuple[str, str]]:
    """The steps of a chain."""
    return list(pairwise(predicate.arms))


def extra(predicate: Predicate, baseline: str) -> set[tuple[str, ...]]:
    """The intervals that a claim asks for beside those of the verdicts."""
    if predicate.kind in ("ratio", "level"):
        return {(predicate.kind, *sorted(predicate.arms))}
    return {tuple(sorted(pair)) for pair in pairs(predicate) if baseline not in pair}


def is_exact(metric: str) -> bool:
    """Whether a metric is declared to be without noise, so that its interval may have no width."""
    return metric.startswith(_EXACT)


def of_quality(measure: str) -> bool:
    """Whether a measure depends on how well an arm was trained, and so on its rate."""
    return not measure.startswith((*_EXACT, TIMING))


def declared(metric: str) -> bool:
    """Whether a metric counts solved runs."""
    return metric.split("/")[-1] == "solved"
