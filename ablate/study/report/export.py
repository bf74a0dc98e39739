"""What goes into a paper: the tables as LaTeX and CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.record import atomic
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.frames import sheets
from ablate.study.report.table import Table
from ablate.study.report.tables import verdict_table

if TYPE_CHECKING:
    import pandas as pd

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\\\ a bracket would be an option of it
    "]": "{]}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\to$",
    "\n": " ",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with what spreadsheets let a formula begin
DIGITS = "%.10g"  # further digits depend on the machine


def latex(text: str) -> str:
    """The text so that LaTeX prints it as it is."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def latex_table(table: Table) -> str:
    """A table for `booktabs`, to be set with \\input."""
    columns = "".join("r" if n in table.numeric else "l" for n in range(len(table.columns)))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(latex, cells)) + r" \\"

    return "\n".join(
        [
            f"% {' '.join(table.note.split())}".replace("\\", ""),
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *(line(row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def write_tables(judgement: StudyJudgement, folder: Path) -> None:
    """Write `verdicts.tex` and every sheet as CSV into `folder`; files of an earlier report are replaced."""
    files: dict[str, str] = {
        f"{name}.csv": _as_text(sheet).to_csv(index=False, lineterminator="\n", float_format=DIGITS)
        for name, sheet in sheets(judgement).items()
    }
    tables = []
    for corpus in judgement.corpora:
        table = verdict_table(corpus)
        if table is not None:
            tables.append(f"% corpus: {' '.join(corpus.corpus.split())}\n{latex_table(table)}")
    if tables:
        files["verdicts.tex"] = "\n".join(tables)
    replace_files(folder, {name: text.encode() for name, text in files.items()}, ("*.csv", "*.tex"))


def _as_text(sheet: "pd.DataFrame") -> "pd.DataFrame":
    """Text that a spreadsheet would take for a formula, with the quotation mark before it that says text."""

    def plain(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    return sheet.map(plain)


def replace_files(folder: Path, files: dict[str, bytes], patterns: Sequence[str]) -> None:
    """Write these files and remove the others of these patterns, which an earlier report left."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic(folder / name) as f:
            f.write(content)
    for pattern in patterns:
        for old in folder.glob(pattern):
            if old.name not in files:
                old.unlink()
