"""The report of a study, made from its results files alone: report.md, report.html, tables/ and figures/.

Rebuilding gives the same bytes.
"""

from pathlib import Path

from ablate.record import atomic
from ablate.study.judge.study_judgement import StudyJudgement, judge_study
from ablate.study.report.export import replace_files, write_tables
from ablate.study.report.figures import draw_corpus, draw_scale
from ablate.study.report.markup import html_environment, markdown_environment
from ablate.study.report.page import report_context
from ablate.study.results import read_results


def report(folder: Path) -> StudyJudgement:
    """Rebuild the report of the experiment in `folder` from `folder/results`; returns what it shows.

    Raises FileNotFoundError where `ablate.study.results.write_results` has written nothing yet.
    """
    judgement = judge_study(read_results(folder))
    corpora, scales = judgement.corpora, judgement.scales
    drawings = [draw_corpus(judgement, corpus, numbered(n, len(corpora))) for n, corpus in enumerate(corpora)]
    lines = [draw_scale(judgement, scale, numbered(n, len(scales))) for n, scale in enumerate(scales)]
    write_tables(judgement, folder / "tables")
    drawn = [drawing for each in (*drawings, *lines) for drawing in each]
    files = {f"{drawing.name}.svg": drawing.svg.encode() for drawing in drawn}
    files |= {f"{drawing.name}.pdf": drawing.pdf for drawing in drawn}
    replace_files(folder / "figures", files, ("*.svg", "*.pdf"))
    context = report_context(judgement, drawings, lines)
    for name, environment in (("report.md", markdown_environment()), ("report.html", html_environment())):
        text = environment.get_template(f"{name}.jinja").render(context)
        with atomic(folder / name) as f:
            f.write(text.encode())
    return judgement


def numbered(place: int, count: int) -> str:
    """The suffix of a file of the corpus in this place; nothing where there is one corpus only."""
    return f"-{place + 1}" if count > 1 else ""
