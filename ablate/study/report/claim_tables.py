"""The table of claims with their verdicts."""

from collections.abc import Sequence

from ablate.amounts import TIMES, short
from ablate.study.design.claim import parse
from ablate.study.judge.claims import Judgement
from ablate.study.judge.headlines import JudgedClaims, headlines
from ablate.study.report.table import Table


def place_heading(judged: Sequence[JudgedClaims]) -> str:
    """What the column is called that says where something was found."""
    corpora, sized = len({one.text for one in judged}) > 1, any(one.size for one in judged)
    return "corpus and size" if corpora and sized else "size" if sized else "corpus"


def claim_table(judged: Sequence[JudgedClaims]) -> Table | None:
    """Every claim on every corpus, at every size and on all of them, beside what was published."""
    many = len(judged) > 1
    corpora = len({one.text for one in judged}) > 1
    headlined = headlines(judged)
    rows = []
    for corpus in judged:
        cells: list[tuple[str, ...]] = [_claim(judgement) for judgement in corpus.claims]
        cells += [(claim.id, claim.predicate, "undecided", why, "", "", "") for claim, why in corpus.unjudged]
        for row in cells:
            headline = "yes" if headlined.get(row[0]) else "no"
            rows.append(
                (row[0], *([corpus.corpus] if many else []), *row[1:], *([headline] if corpora else []))
            )
    if not rows:
        return None
    columns = [
        "claim",
        *([place_heading(judged)] if many else []),
        "says",
        "verdict",
        "our data",
        "published",
        "beside",
        "source",
    ]
    note = (
        "pass: the interval lies where the claim says; fail: it lies elsewhere; no difference that matters: "
        "it contains 0 and lies within the margin; undecided (sign as claimed): the estimate agrees and the "
        "interval does not settle it, as a coin does half of the time. Beside: ours divided by the "
        "published figure, which comes from another scale."
    )
    if corpora:
        note += " Headline: the claim passes on two corpora with the same sign."
    else:
        note += " One corpus: none of these is a headline yet."
    return Table("Claims", (*columns, *(["headline"] if corpora else [])), tuple(rows), note)


def _claim(judgement: Judgement) -> tuple[str, ...]:
    beside = judgement.beside
    published, size, source = "", "", ""
    if beside is not None:
        published = short(beside.published)
        if parse(judgement.predicate).kind == "level":
            size = f"ours {short(beside.ours, 4)}"
            size += f", {beside.size:.3g}{TIMES}" if beside.size is not None else ""
        else:
            size = "same sign" if beside.same_sign else "other sign"
            size += f", {beside.size:.2g}{TIMES}" if beside.size is not None and beside.same_sign else ""
        source = beside.source + (f" ({beside.differs})" if beside.differs else "")
    return (judgement.claim, judgement.predicate, judgement.marked, judgement.reason, published, size, source)
