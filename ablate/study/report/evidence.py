"""The page of all experiments, experiments/README.md, and what README.md shows of one of them."""

from pathlib import Path

from ablate.record import atomic
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report.answer import answer
from ablate.study.report.experiments import Evidence, read_evidence
from ablate.study.report.index import index_page
from ablate.study.report.markup import markdown
from ablate.study.report.table import Table
from ablate.study.report.tables import verdict_table
from ablate.study.results import read_results

README_PAGE = "README.md"
INDEX = "index.html"
_BEGIN, _END = "<!-- headline: begin -->", "<!-- headline: end -->"


def write_evidence(experiments: Path, readme: Path, shown: str) -> list[Path]:
    """Write experiments/README.md, experiments/index.html, and what README shows of the study `shown` between
    its two marks. Returns the files. Raises ValueError where README lacks the marks.
    """
    evidence = read_evidence(experiments)
    texts = {
        experiments / README_PAGE: experiments_page(evidence, (experiments / "about.md").read_text()),
        experiments / INDEX: index_page(evidence, claim_rows(evidence)),
        readme: with_headline(readme.read_text(), experiments / shown),
    }
    for file, text in texts.items():
        with atomic(file) as f:
            f.write(text.encode())
    return list(texts)


def experiments_page(evidence: Evidence, about: str) -> str:
    """The page in Markdown, from the catalogue and the stored results alone; `about` stands at its end."""
    lines = [
        "# Experiments",
        "",
        "Every claim of the catalogue ([claims.yaml](claims.yaml)), with what our runs say of it, and every "
        "study. This page is written by `python -m ablate evidence` from stored results; "
        "[index.html](index.html) shows the studies as pictures.",
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
        *_markdown(claim_rows(evidence)),
        "",
        "## Studies",
        "",
        *_markdown(study_rows(evidence)),
        "",
        about.rstrip(),
        "",
    ]
    return "\n".join(lines)


def claim_rows(evidence: Evidence) -> Table:
    """One row for each finding; one that says `open` for an entry without any."""
    rows = []
    for entry in evidence.entries:
        findings = evidence.on(entry)
        if not findings:
            planned = f"to be judged: {entry.judge}" if entry.judge else ""
            rows.append((entry.id, entry.says, "open", planned, entry.sources, "", ""))
        for n, finding in enumerate(findings):
            where = finding.study + (f", {finding.corpus}" if finding.corpus else "")
            beside = finding.published
            if finding.published and finding.beside:
                beside = f"{finding.published} ({finding.beside})"
            ours = f"{where}: {finding.predicate}: {finding.ours}"
            named = (entry.id, entry.says, entry.sources) if n == 0 else ("", "", "")
            rows.append((*named[:2], finding.verdict, ours, named[2], beside, finding.command))
    columns = ("claim", "says", "verdict", "our data", "published", "beside ours", "command")
    return Table("", columns, tuple(rows))


def study_rows(evidence: Evidence) -> Table:
    """One row for each study; those with results are linked."""
    rows = []
    for study in evidence.studies:
        name = f"[{study.name}]({study.name}/report.md)" if study.judgement else study.name
        rows.append((name, study.question, study.state, study.answer))
    return Table("", ("study", "question", "state", "answer"), tuple(rows))


def with_headline(readme: str, folder: Path) -> str:
    """README with the picture and the tables of a study between the marks."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"README lacks the lines {_BEGIN} and {_END}")
    return f"{before}{begin}\n{headline_section(folder)}\n{end}{after}"


def headline_section(folder: Path) -> str:
    """The answer, and of each corpus the verdicts and how the gaps moved while training, in Markdown."""
    judgement = judge_study(read_results(folder))
    where = f"experiments/{folder.name}"
    lines = [f"**{markdown(judgement.study.question)}** {markdown(answer(judgement))}", ""]
    for n, corpus in enumerate(judgement.corpora):
        number, on = (f"-{n + 1}", f" on {markdown(corpus.corpus)}") if judgement.several else ("", "")
        lines += [*([f"The verdicts{on}:", ""] if on else []), *_markdown(_leaders(corpus)), ""]
        if (folder / "figures" / f"gaps{number}.svg").is_file():
            lines += [f"![Gaps while training{on}]({where}/figures/gaps{number}.svg)", ""]
            lines += ["Training loss minus that of the baseline, by tokens seen.", ""]
        else:
            lines += [f"![Verdicts{on}]({where}/figures/differences{number}.svg)", ""]
    lines.append(f"All of it: [{where}/report.md]({where}/report.md).")
    return "\n".join(lines)


def _leaders(judged: Judged) -> Table:
    table = verdict_table(judged)
    if table is None:
        return Table("", ("verdict",), ((judged.reason,),))
    return table.without("sd", "r", "other text")


def _markdown(table: Table) -> list[str]:
    """A table in Markdown; links made here are left alone."""

    def cell(text: str) -> str:
        return text if text.startswith("[") and text.endswith(".md)") else markdown(text)

    return [
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(cell(text) for text in row) + " |" for row in table.rows),
    ]
