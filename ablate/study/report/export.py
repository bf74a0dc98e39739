"""What goes into a paper: the tables as LaTeX and CSV, and a methods paragraph made from the plan."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.record import atomic
from ablate.study.judge.corpus import Judged, JudgedClaims
from ablate.study.judge.scale import Scale, Trend
from ablate.study.judge.solved import Verdicts
from ablate.study.report.summary import arm_costs
from ablate.study.report.table import Table
from ablate.study.report.tables import verdict_table
from ablate.study.results import Results
from ablate.study.stats.factorial import Ingredient

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


def write_tables(results: Results, judged: Sequence[Judged], scales: Sequence[Scale], folder: Path) -> None:
    """Write `verdicts.tex` and every sheet as CSV into `folder`; files of an earlier report are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {
        f"{name}.csv": sheet.to_csv(index=False, lineterminator="\n", float_format=DIGITS)
        for name, sheet in sheets(results, judged, scales).items()
    }
    tables = []
    for corpus in judged:
        table = verdict_table(corpus)
        if table is not None:
            tables.append(f"% corpus: {' '.join(corpus.corpus.split())}\n{latex_table(table)}")
    if tables:
        files["verdicts.tex"] = "\n".join(tables)
    replace(folder, {name: text.encode() for name, text in files.items()}, ("*.csv", "*.tex"))


def replace(folder: Path, files: dict[str, bytes], patterns: Sequence[str]) -> None:
    """Write these files and remove the others of these patterns, which an earlier report left."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic(folder / name) as f:
            f.write(content)
    for pattern in patterns:
        for old in folder.glob(pattern):
            if old.name not in files:
                old.unlink()


def sheets(
    results: Results, judged: Sequence[Judged], scales: Sequence[Scale] = ()
) -> dict[str, "pd.DataFrame"]:
    """Every table at full precision; empty ones are left out."""
    import pandas as pd

    runs = results.runs.drop(columns=["stale"]) if not results.runs["stale"].any() else results.runs
    made: dict[str, list[pd.DataFrame]] = {"runs": [runs]}

    def add(name: str, corpus: JudgedClaims, rows: "list[dict[str, Any]] | pd.DataFrame") -> None:
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
        if len(table):
            table.insert(0, "corpus", corpus.corpus)
            made.setdefault(name, []).append(table)

    for corpus in judged:
        add("verdicts", corpus, _verdicts(corpus))
        add("stability", corpus, _stability(corpus))
        add("claims", corpus, _claims(corpus))
        add("measures", corpus, [found.model_dump() for found in corpus.descriptions])
        add("costs", corpus, arm_costs(corpus).reset_index())
        if corpus.factorial is not None:
            add("effects", corpus, corpus.factorial.table())
        add("ingredients", corpus, [row for found in corpus.ingredients for row in _ingredient(found)])
        if corpus.tuning is not None:
            add("rates", corpus, [_choice(choice.model_dump()) for choice in corpus.tuning.choices])
        add("sensitivity", corpus, _sensitivity(corpus))
        add("solved", corpus, [row for found in corpus.solved for row in _solved(found)])
    for scale in scales:
        add("claims", scale, _claims(scale))
        add("scale", scale, [_trend(found, scale) for found in scale.trends])
        add("ranks", scale, [{**asdict(rank), "arms": " ".join(rank.arms)} for rank in scale.ranks])
    made["differences"] = [
        pd.DataFrame(
            [
                {
                    "corpus": arm.corpus,
                    "arm": arm.name,
                    "path": d.path,
                    "baseline": d.baseline,
                    "value": d.arm,
                    "reason": d.reason,
                }
                for arm in results.kept.arms
                for d in arm.differs
            ]
        )
    ]
    return {name: pd.concat(tables, ignore_index=True) for name, tables in made.items() if len(tables[0])}


def _verdicts(judged: Judged) -> list[dict[str, Any]]:
    comparison = judged.comparison
    if comparison is None:
        return []
    rows = []
    for verdict in comparison.verdicts:
        row = verdict.model_dump(exclude={"stability", "documents", "missing", "baseline_missing"})
        documents, effect = verdict.documents, judged.tokens(verdict.arm)
        row["documents_difference"] = documents.difference if documents else None
        row["documents_error"] = documents.error if documents else None
        row["tokens_multiple"] = effect.multiple if effect else None
        row["tokens_low"], row["tokens_high"] = (effect.low, effect.high) if effect else (None, None)
        row["stability"] = verdict.stability.word
        row["baseline"], row["metric"] = comparison.baseline, comparison.metric
        row["margin"], row["alpha"] = comparison.margin, comparison.alpha_spent
        rows.append(row)
    return rows


def _stability(judged: Judged) -> list[dict[str, Any]]:
    verdicts = judged.comparison.verdicts if judged.comparison else ()
    return [{"arm": verdict.arm, **verdict.stability.model_dump()} for verdict in verdicts]


def _claims(judged: JudgedClaims) -> list[dict[str, Any]]:
    rows = []
    for judgement in judged.claims:
        row = judgement.model_dump(include={"claim", "predicate", "measure", "word", "reason"})
        beside = judgement.beside
        row |= {
            "ours": beside.ours if beside else None,
            "published": beside.published if beside else None,
            "source": beside.source if beside else None,
        }
        rows.append(row)
    return rows


def _trend(found: Trend, scale: Scale) -> dict[str, Any]:
    comparison = scale.comparison
    row = {name: value for name, value in asdict(found).items() if name != "line"}
    row["first"], row["last"] = found.line or (None, None)  # the gap on the line at the ends
    row["baseline"] = scale.baseline
    return row | {"alpha": comparison.alpha_spent if comparison else None}


def _sensitivity(judged: Judged) -> list[dict[str, Any]]:
    found = judged.sensitivities
    return [
        {
            **arm.model_dump(include={"arm", "runs", "diverged", "failed", "start", "bar", "reason"}),
            **{
                name: getattr(arm.sensitivity, name) if arm.sensitivity else None
                for name in ("value", "low", "high", "best_rate", "best_loss", "clipped")
            },
            "source": found.source,
        }
        for arm in (found.arms if found else ())
        if found
    ]


def _solved(found: Verdicts) -> list[dict[str, Any]]:
    rows = []
    for arm in found.arms.values():
        contrast = found.contrasts.get(arm.arm)
        row: dict[str, Any] = {"metric": found.metric, **arm.model_dump()}
        names = ("word", "difference", "p", "p_adjusted")
        rows.append(row | {name: getattr(contrast, name) if contrast else None for name in names})
    return rows


def _ingredient(found: Ingredient) -> list[dict[str, Any]]:
    return [
        {"factor": found.factor, "how": how, **asdict(estimate)}
        for how, estimate in (("added", found.added), ("left out", found.left_out))
        if estimate
    ]


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Lists as text: a cell of CSV holds one value."""

    def text(value: Any) -> Any:
        if isinstance(value, dict):
            return " ".join(f"{rate:g}={loss:.10g}" for rate, loss in value.items())
        return " ".join(f"{rate:g}" for rate in value) if isinstance(value, tuple) else value

    return {key: text(value) for key, value in choice.items()}
