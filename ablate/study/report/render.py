"""The report of a study, made from its results files alone: report.md, report.html, tables/ and figures/.

Rebuilding gives the same bytes. No text from a configuration is trusted: whatever a template prints is
escaped, for HTML and for Markdown, unless it was made here.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.record import atomic
from ablate.study.design.study import Study
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged, judge_results
from ablate.study.judge.scale import Scale, judge_scale
from ablate.study.report import (
    claim_tables,
    export,
    figures,
    methods,
    phrasing,
    scale_tables,
    study_tables,
    summary,
    tables,
    timing,
)
from ablate.study.results import Kept, Results, read

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console
    from rich.table import Table as RichTable

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = {"better": "green", "worse": "red", "equivalent": "blue", "undecided": "yellow"}
ROOMY = 100  # letters in a line of the terminal; below, these columns are left to the report
SPARE = ("sd", "r", "other text", "tokens")
MARKDOWN = re.compile(r"([\\`*_\[\]|$~])")
STARTS = re.compile(r"^(?=[-+#=]+(?:\s|$))|^\d+(?=[.)](?:\s|$))")  # what begins a list, a heading, a rule


def report(folder: Path) -> None:
    """Rebuild the report of the experiment in `folder` from `folder/results`.

    Raises FileNotFoundError where `ablate.study.results.write` has written nothing yet.
    """
    results = read(folder)
    judged = judge_results(results)
    drawings = [
        figures.draw(results, corpus, f"-{n + 1}" if len(judged) > 1 else "")
        for n, corpus in enumerate(judged)
    ]
    scales = judge_scale(results, judged)
    lines = [
        figures.draw_scale(results, scale, f"-{n + 1}" if len(scales) > 1 else "")
        for n, scale in enumerate(scales)
    ]
    page = _page(results, judged, drawings, scales, lines) | {"race": timing.table(results)}
    export.write_tables(results, judged, scales, folder / "tables")
    files = {f"{drawing.name}.svg": drawing.svg.encode() for each in (*drawings, *lines) for drawing in each}
    files |= {f"{drawing.name}.pdf": drawing.pdf for each in (*drawings, *lines) for drawing in each}
    export.replace(folder / "figures", files, ("*.svg", "*.pdf"))
    for name, environment in (("report.md", _markdown()), ("report.html", _html())):
        text = environment.get_template(f"{name}.jinja").render(page)
        with atomic(folder / name) as f:
            f.write(text.encode())


def show(console: "Console", folder: Path) -> None:
    """The verdicts in the terminal, below the banners that say what they are worth. From `folder/results`."""
    from rich.text import Text

    results = read(folder)
    judged = judge_results(results)
    scales = judge_scale(results, judged)
    study = results.kept.said()
    console.print(Text(study.question, style="bold"))
    for banner in banners(results.kept, judged, scales):
        console.print(Text(f"! {banner}", style="yellow"))
    for corpus in judged:
        console.print(_terminal(corpus, len(judged) > 1, console.width))
        for arm in summary.ranked(corpus):
            if corpus.comparison is not None and arm != results.kept.baseline:
                note = tables.notes_on(corpus.comparison.verdict(arm), corpus.comparison)
                if note:
                    console.print(Text(f"  {arm}: {note}", style="dim"))
    console.print(Text(answer(results, judged, scales)))


def answer(results: Results, judged: Sequence[Judged], scales: Sequence[Scale]) -> str:
    """What the study found, and what size does to it."""
    placebo = results.kept.placebo
    trends = phrasing.with_size(scales, results.kept.said().metric, placebo)
    return f"{phrasing.answer(judged, placebo)} {trends}".rstrip()


def _terminal(judged: Judged, many: bool, width: int) -> "RichTable | str":
    from rich.table import Table
    from rich.text import Text

    found = tables.verdict_table(judged)
    if found is None or judged.comparison is None:
        return Text(f"No verdict: {judged.reason}")  # type: ignore[return-value]
    table = Table(title=Text(judged.corpus) if many else None, box=None, pad_edge=False, title_justify="left")
    kept = [n for n, name in enumerate(found.columns) if width >= ROOMY or name not in SPARE]
    for n in kept:
        name, right = found.columns[n], n in found.numeric
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=right and name not in SPARE,
            overflow="fold",
        )
    for row in found.rows:
        word = row[1].split(",")[0]
        cells = [Text(row[n]) for n in kept]
        cells[1].stylize(COLOURS.get(word, "dim"))
        table.add_row(*cells)
    return table


def banners(kept: Kept, judged: Sequence[Judged], scales: Sequence[Scale] = ()) -> list[str]:
    """What must be known before a verdict is believed, worst first."""
    said = []
    for corpus in judged:
        where = f"{corpus.corpus}: " if len(judged) > 1 else ""
        if corpus.comparison is not None:
            said += [f"{where}{warning}." for warning in corpus.comparison.warnings]
            if corpus.comparison.refused:
                refused = ", ".join(corpus.comparison.refused)
                said.append(f"{where}{refused}: refused before training, so in no comparison.")
        said += [f"{where}{mixed}." for mixed in corpus.mixed]
        said += [f"{where}{problem}." for problem in corpus.problems]
        if corpus.comparison is None:
            said.append(f"{where}No verdict: {corpus.reason}.")
    for scale in scales:
        if scale.comparison is None:
            said.append(f"{scale.corpus}: no slope: {scale.reason}.")
        else:
            said += [f"Slopes on {scale.corpus}: {warning}." for warning in scale.comparison.warnings]
    rules = kept.plan.moved_rules if kept.plan else ()
    if rules:
        said.append(f"The rules were changed since the plan was frozen: {'; '.join(rules)}.")
    if kept.said().tune is None:
        said.append(phrasing.NOT_TUNED)
    return list(dict.fromkeys(said))


@dataclass(frozen=True)
class Bar:
    """An interval to be drawn in a table, in percent of its cell: the verdict's own, on the figure's axis."""

    zero: float
    left: float
    right: float
    middle: float
    margin: tuple[float, float] | None
    cut_left: bool
    cut_right: bool
    said: str


def bar(comparison: Comparison, verdict: Verdict) -> Bar | None:
    """None while the verdict waits."""
    if verdict.low is None or verdict.high is None or verdict.difference is None:
        return None
    axis = summary.span(comparison)

    def at(value: float) -> float:
        return round(100 * axis.share(value), 3)

    cut_left, cut_right = axis.beyond(verdict)
    margin = comparison.margin
    return Bar(
        zero=at(0.0),
        left=at(verdict.low),
        right=at(verdict.high),
        middle=at(verdict.difference),
        margin=(at(-margin), at(margin)) if margin else None,
        cut_left=cut_left,
        cut_right=cut_right,
        said=phrasing.interval(verdict.low, verdict.high, phrasing.decimals(comparison)),
    )


def _page(
    results: Results,
    judged: Sequence[Judged],
    drawings: Sequence[list[figures.Drawing]],
    scales: Sequence[Scale],
    lines: Sequence[list[figures.Drawing]],
) -> dict[str, Any]:
    """All that the templates show."""
    kept, study = results.kept, results.kept.said()
    runs = results.runs
    return {
        "name": kept.name,
        "question": study.question,
        "answer": answer(results, judged, scales),
        "banners": banners(results.kept, judged, scales),
        "facts": _facts(results, study, judged),
        "corpora": [
            _corpus(results, corpus, drawn, len(judged) > 1)
            for corpus, drawn in zip(judged, drawings, strict=True)
        ],
        "scales": [
            {
                "name": scale.text if len(scales) > 1 else "",
                "drawings": drawn,
                "tables": scale_tables.scale_tables(scale, study.metric, study.alpha),
            }
            for scale, drawn in zip(scales, lines, strict=True)
        ],
        "claims": claim_tables.claim_table([*judged, *scales]),
        "differences": [
            table
            for table in (study_tables.difference_table(results), study_tables.matching_table(results))
            if table
        ],
        "outcomes": [
            table
            for table in (
                study_tables.outcome_table(results) if len(runs) else None,
                study_tables.failure_table(results),
            )
            if table
        ],
        "plan": _plan(results, study),
        "methods": methods.methods(results),
        "commands": _commands(results, judged),
        "rebuild": shlex.join(["python", "sweep.py", f"experiment={kept.name}", "report=true"]),
        "origin": study_tables.origin_table(results),
        "notes": [*kept.notes, *_arm_notes(results)],
        "study_notes": study.notes,
        "style": (TEMPLATES / "style.css").read_text(),
    }


def _facts(results: Results, study: Study, judged: Sequence[Judged]) -> list[tuple[str, str]]:
    runs = results.runs.drop_duplicates("id") if len(results.runs) else results.runs
    done = int((runs["status"] == "finished").sum())
    comparison = judged[0].comparison
    look = "none yet" if comparison is None or comparison.look is None else f"{comparison.look} seeds"
    facts = [
        ("metric", f"{study.metric} ({study.better} is better)"),
        ("margin", f"{study.margin:g}" if study.margin else "none declared"),
        ("arms", str(len({arm.name for arm in results.kept.arms}))),
        ("seeds", str(len(study.seeds))),
        ("judged at", look),
        ("interval", study.variance),
        ("runs finished", f"{done} of {len(runs)}"),
    ]
    for corpus in judged:
        lines = ", ".join(f"{name} {loss:.2f}" for name, loss in corpus.reference.items())
        if lines:
            where = f" of {corpus.corpus}" if len(judged) > 1 else ""
            facts.append((f"n-gram models{where}", f"{lines} (nats per token, validation)"))
    return facts


def _corpus(results: Results, judged: Judged, drawings: list[figures.Drawing], many: bool) -> dict[str, Any]:
    comparison = judged.comparison
    placebo = results.kept.placebo
    rows = []
    for arm in summary.ranked(judged) if comparison is not None else ():
        cells = tables.verdict_cells(judged, arm)
        verdict = None if arm == comparison.baseline else comparison.verdict(arm)  # type: ignore[union-attr]
        rows.append(
            {
                **{key.replace(" ", "_"): value for key, value in cells.items()},
                "word": verdict.word if verdict else "baseline",
                "said": phrasing.word(verdict) if verdict else "baseline",
                "placebo": arm == placebo,
                "bar": bar(comparison, verdict) if comparison and verdict else None,
            }
        )
    leaderboard = tables.verdict_table(judged)
    return {
        "name": judged.corpus if many else "",
        "reason": judged.reason,
        "leaderboard": leaderboard,
        "rows": rows,
        "beside": leaderboard is not None and "other text" in leaderboard.columns,
        "tokens": leaderboard is not None and "tokens" in leaderboard.columns,
        "drawings": drawings,
        "tables": tables.corpus_tables(results, judged),
        "slope": judged.slope.reason if judged.slope is not None and judged.slope.status == "blank" else "",
    }


def _plan(results: Results, study: Study) -> dict[str, Any]:
    plan = results.kept.plan
    return {
        "frozen": plan is not None,
        "date": plan.date if plan else "",
        "hash": plan.hash if plan else "",
        "test_runs": plan.test_runs if plan else 0,
        "amendments": [(str(change), change.date) for change in plan.amendments] if plan else [],
        "exploratory": list(plan.exploratory) if plan else [],
        "excluded": list(study.exclude.items()),
    }


def _commands(results: Results, judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """For each arm and corpus, the command of its first test run; tables/runs.csv has that of every run."""
    runs = results.runs[results.runs["role"] == "test"].drop_duplicates(["corpus", "arm"])
    many = len(judged) > 1
    return [
        (f"{arm} on {corpus}" if many else str(arm), str(command))
        for corpus, arm, command in zip(runs["corpus"], runs["arm"], runs["command"], strict=True)
    ]


def _arm_notes(results: Results) -> list[str]:
    """Why the placebo redraws what it does, why an arm acts."""
    notes = {(arm.name, arm.note): None for arm in results.kept.arms if arm.note}
    return [f"{name}: {note}" for name, note in notes]


def _html() -> "Environment":
    """Every expression is escaped, but for the SVG of our own figures."""
    from markupsafe import Markup

    environment = _environment()
    environment.filters["svg"] = lambda drawing: Markup(figures.inline(drawing))
    environment.filters["style"] = lambda css: Markup(css)
    return environment


def _markdown() -> "Environment":
    """Every expression is escaped for Markdown and for the HTML that Markdown lets through."""
    from markupsafe import Markup

    environment = _environment()
    environment.finalize = lambda value: value if isinstance(value, Markup) else Markup(markdown(str(value)))
    environment.filters["fenced"] = lambda text: Markup(fenced(text))
    return environment


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markdown(text: str) -> str:
    """The text so that Markdown shows it as it is, on one line."""
    text = MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    text = STARTS.sub(r"\g<0>\\", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str) -> str:
    """A block of code; the fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
