"""One page of all experiments: every claim of the catalogue with the verdicts on it, and every study.

experiments/claims.yaml        the catalogue: id, what it says, what was published
experiments/NAME/study.yaml    a study; with NAME/results it has been run, with NAME/plan.json it is frozen
experiments/NAME/claims.json   the judgements of an experiment that is no study: [Said, ...]

A study's claim C16-learned belongs to the entry C16. Every figure comes from stored results.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from ablate.record import atomic
from ablate.spec import Strict
from ablate.study.design.freeze import NAME as PLAN
from ablate.study.design.study import load, plain
from ablate.study.judge.corpus import Judged, JudgedClaims, judge_results
from ablate.study.judge.scale import judge_scale
from ablate.study.report.claim_tables import claim_table, place
from ablate.study.report.render import answer, markdown
from ablate.study.report.table import Table
from ablate.study.report.tables import verdict_table
from ablate.study.results import FOLDER, Results, read

PAGE = "README.md"
CATALOGUE = "claims.yaml"
BEGIN, END = "<!-- headline: begin -->", "<!-- headline: end -->"


class Entry(Strict):
    """One claim of the catalogue."""

    id: str
    says: str
    published: str


class Said(Strict):
    """A judgement on a claim. `claim` is the id of an entry, or begins with it and a hyphen."""

    claim: str
    study: str
    corpus: str = ""
    predicate: str
    verdict: str
    ours: str = ""
    published: str = ""
    beside: str = ""
    command: str

    def of(self, entry: Entry) -> bool:
        return self.claim == entry.id or self.claim.startswith(f"{entry.id}-")


class Done(Strict):
    """A study in one row."""

    name: str
    question: str
    state: str
    answer: str


def write(experiments: Path, readme: Path, shown: str) -> list[Path]:
    """Write experiments/README.md, and what README shows of the study `shown`, between its two marks. Returns
    the files. Raises ValueError where README lacks the marks.
    """
    texts = {
        experiments / PAGE: page(experiments),
        readme: with_headline(readme.read_text(), experiments / shown),
    }
    for file, text in texts.items():
        with atomic(file) as f:
            f.write(text.encode())
    return list(texts)


def page(experiments: Path) -> str:
    """The page, from the catalogue and the stored results alone."""
    entries = catalogue(experiments)
    said = [one for folder in _folders(experiments) for one in judgements(folder)]
    known = [one for one in said if any(one.of(entry) for entry in entries)]
    lines = [
        "# Experiments",
        "",
        "Every claim of the catalogue ([claims.yaml](claims.yaml)), with what our runs say of it, and every "
        "study. This page is written by `python -m ablate evidence` from stored results.",
        "",
        "**pass**: the interval lies wholly where the claim says; **fail**: wholly elsewhere; **no "
        "difference that matters**: it contains 0 and lies within the margin; **undecided (sign as "
        "claimed)**: the estimate agrees and the interval does not settle it, as a coin does half of the "
        "time; **undecided**: neither. **open**: no study has judged it. **rates not tuned**: all arms at "
        "one rate; **rate in doubt**: chosen beside a failed rate; a published claim cannot fail by either. "
        "What is published comes from models a hundred to ten thousand times as large: it is set beside ours "
        "by sign and size, and a claim that fails here is a result about this scale.",
        "",
        "## Claims",
        "",
        *_markdown(claims(entries, known)),
        "",
        "## Studies",
        "",
        *_markdown(studies(experiments)),
        "",
        (experiments / "about.md").read_text().rstrip(),
        "",
    ]
    return "\n".join(lines)


def catalogue(experiments: Path) -> list[Entry]:
    found = plain(experiments / CATALOGUE)
    return [Entry.model_validate({"id": id, **entry}) for id, entry in found.items()]


def claims(entries: Sequence[Entry], said: Sequence[Said]) -> Table:
    """One row for each judgement; one that says `open` for an entry without any."""
    rows = []
    for entry in entries:
        mine = [one for one in said if one.of(entry)]
        if not mine:
            rows.append((entry.id, entry.says, "open", "", entry.published, "", ""))
        for n, one in enumerate(mine):
            place = one.study + (f", {one.corpus}" if one.corpus else "")
            published = f"{one.published} ({one.beside})" if one.published and one.beside else one.published
            rows.append(
                (
                    entry.id if n == 0 else "",
                    entry.says if n == 0 else "",
                    one.verdict,
                    f"{place}: {one.predicate}: {one.ours}",
                    entry.published if n == 0 else "",
                    published,
                    one.command,
                )
            )
    columns = ("claim", "says", "verdict", "our data", "published", "beside ours", "command")
    return Table("", columns, tuple(rows))


def studies(experiments: Path) -> Table:
    rows = [(one.name, one.question, one.state, one.answer) for one in _studies(experiments)]
    return Table("", ("study", "question", "state", "answer"), tuple(rows))


def judgements(folder: Path) -> Iterator[Said]:
    """What an experiment says of claims."""
    if (folder / "claims.json").is_file():
        yield from TypeAdapter(list[Said]).validate_json((folder / "claims.json").read_bytes())
    if not _evident(folder):
        return
    results = read(folder)
    judged = judge_results(results)
    told: list[JudgedClaims] = [*judged, *judge_scale(results, judged)]
    table = claim_table(told)
    for row in table.rows if table else ():
        cells = dict(zip(table.columns, row, strict=True)) if table else {}
        yield Said(
            claim=cells["claim"],
            study=folder.name,
            corpus=cells.get(place(told), ""),
            predicate=cells["says"],
            verdict=cells["verdict"],
            ours=cells["our data"],
            published=cells["published"],
            beside=cells["beside"],
            command=f"python sweep.py experiment={folder.name}",
        )


def with_headline(readme: str, folder: Path) -> str:
    """README with the picture and the tables of a study between the marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README lacks the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{headline(folder)}\n{end}{after}"


def _answer(results: Results, judged: Sequence[Judged]) -> str:
    return answer(results, judged, judge_scale(results, judged))


def headline(folder: Path) -> str:
    """The answer, the picture and the table of verdicts of each corpus, in Markdown."""
    results = read(folder)
    judged, kept = judge_results(results), results.kept
    where = f"experiments/{folder.name}"
    lines = [f"**{markdown(kept.said().question)}** {markdown(_answer(results, judged))}", ""]
    for n, corpus in enumerate(judged):
        number = f"-{n + 1}" if len(judged) > 1 else ""
        lines += [f"![Verdicts on {markdown(corpus.corpus)}]({where}/figures/differences{number}.svg)", ""]
        lines += [f"On {markdown(corpus.corpus)}:", "", *_markdown(_leaders(corpus)), ""]
    lines.append(f"All of it: [{where}/report.md]({where}/report.md).")
    return "\n".join(lines)


def _leaders(judged: Judged) -> Table:
    table = verdict_table(judged)
    if table is None:
        return Table("", ("verdict",), ((judged.reason,),))
    kept = [n for n, name in enumerate(table.columns) if name not in ("sd", "r", "other text")]
    return Table(
        "",
        tuple(table.columns[n] for n in kept),
        tuple(tuple(row[n] for n in kept) for row in table.rows),
    )


def _evident(folder: Path) -> bool:
    """Whether it has results of a frozen plan: others, such as the quickstart's, are no evidence."""
    return (folder / FOLDER).is_dir() and (folder / PLAN).is_file()


def _folders(experiments: Path) -> list[Path]:
    return sorted(place for place in experiments.iterdir() if place.is_dir())


def _studies(experiments: Path) -> Iterator[Done]:
    for folder in _folders(experiments):
        if not (folder / "study.yaml").is_file():
            continue
        link = f"[{folder.name}]({folder.name}/report.md)"
        if not _evident(folder):
            frozen = (folder / PLAN).is_file()
            state = "planned and frozen, not run" if frozen else "not frozen: no evidence"
            yield Done(
                name=folder.name, question=load(folder / "study.yaml").question, state=state, answer=""
            )
            continue
        results = read(folder)
        runs = results.runs.drop_duplicates("id")
        done = int(runs["status"].notna().sum())
        yield Done(
            name=link,
            question=results.kept.said().question,
            state=f"{done} of {len(runs)} runs",
            answer=_answer(results, judge_results(results)),
        )


def _markdown(table: Table) -> list[str]:
    """A table in Markdown; links made here are left alone."""

    def cell(text: str) -> str:
        return text if text.startswith("[") and text.endswith(".md)") else markdown(text)

    return [
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(cell(text) for text in row) + " |" for row in table.rows),
    ]


def dump(said: Sequence[Said]) -> bytes:
    """The content of a claims.json."""
    return (json.dumps([one.model_dump() for one in said], indent=1) + "\n").encode()
