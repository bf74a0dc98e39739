"""Claims that may be made in a headline: they pass on two corpora."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Protocol

from ablate.study.design.claim import Claim
from ablate.study.judge.claims import Judgement, headline


class JudgedClaims(Protocol):
    """What claims were judged on."""

    @property
    def corpus(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def claims(self) -> tuple[Judgement, ...]: ...
    @property
    def unjudged(self) -> tuple[tuple[Claim, str], ...]: ...


def headlines(judged: Sequence[JudgedClaims]) -> dict[str, bool]:
    """Claim -> whether it passes on two corpora, at the same size, with the same sign."""
    passes: dict[str, bool] = {}
    for first, second in combinations(judged, 2):
        if first.text == second.text or first.size != second.size:
            continue
        for a, b in product(first.claims, second.claims):
            if a.claim == b.claim:
                passes[a.claim] = passes.get(a.claim, False) or headline(a, b)
    return passes
