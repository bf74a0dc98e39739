"""The verdicts of a study in the terminal."""

from typing import TYPE_CHECKING

from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.answer import answer, banners
from ablate.study.report.summary import ranked
from ablate.study.report.tables import notes_on, verdict_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

TERMINAL_COLOURS = {"better": "green", "worse": "red", "equivalent": "blue", "undecided": "yellow"}
ROOMY = 100  # letters in a line of the terminal; below, these columns are left to the report
SPARE = ("sd", "r", "other text", "tokens")


def show(console: "Console", judgement: StudyJudgement) -> None:
    """Print the verdicts, below the banners that say what they are worth, and the answer."""
    from rich.text import Text

    console.print(Text(judgement.study.question, style="bold"))
    for banner in banners(judgement):
        console.print(Text(f"! {banner}", style="yellow"))
    for corpus in judgement.corpora:
        console.print(_verdicts(corpus, judgement.several, console.width))
        for arm in ranked(corpus):
            if corpus.comparison is not None and arm != judgement.manifest.baseline:
                note = notes_on(corpus.comparison.verdict(arm), corpus.comparison)
                if note:
                    console.print(Text(f"  {arm}: {note}", style="dim"))
    console.print(Text(answer(judgement)))


def _verdicts(judged: Judged, several: bool, width: int) -> "RichTable | Text":
    from rich.table import Table
    from rich.text import Text

    text = verdict_table(judged)
    if text is None:
        return Text(f"No verdict: {judged.reason}")
    table = Table(
        title=Text(judged.corpus) if several else None, box=None, pad_edge=False, title_justify="left"
    )
    shown = [n for n, heading in enumerate(text.columns) if width >= ROOMY or heading not in SPARE]
    for n in shown:
        heading, right = text.columns[n], n in text.numeric
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=right and heading not in SPARE,
            overflow="fold",
        )
    for row in text.rows:
        cells = [Text(row[n]) for n in shown]
        cells[1].stylize(TERMINAL_COLOURS.get(row[1].split(",")[0], "dim"))
        table.add_row(*cells)
    return table
