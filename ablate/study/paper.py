"""What goes into a paper: the tables as LaTeX and CSV, and a methods paragraph made from the plan."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.amounts import amount
from ablate.record import atomic
from ablate.study.claims import counts
from ablate.study.design import Study
from ablate.study.differences import fetch
from ablate.study.factorial import Ingredient
from ablate.study.figures import arm_costs
from ablate.study.judged import Judged, Told
from ablate.study.results import Kept, KeptPlan, Results
from ablate.study.scale import Scale, Trend
from ablate.study.solved import Verdicts
from ablate.study.tables import Table, verdict_table
from ablate.study.wording import MINUS, numbers

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
HELD = {
    "non_embedding_params": "the number of parameters without embeddings",
    "total_params": "the number of parameters",
    "active_flops": "the training FLOPs of a token",
    "train_flops": "the FLOPs of training",
}


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

    def add(name: str, corpus: Told, rows: "list[dict[str, Any]] | pd.DataFrame") -> None:
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


def _claims(judged: Told) -> list[dict[str, Any]]:
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


def methods(results: Results) -> str:
    """The methods paragraph, from the plan alone: seeds, tuning, matching, test, family, looks."""
    kept = results.kept
    study = kept.said()
    sentences = [
        _models(kept, study),
        _arms(kept, study),
        _matching(study),
        _tuning(study),
        _seeds(study),
        _scoring(study),
        _test(kept, study),
        _looks(study, results.kept.plan),
        _factors(study),
        _scale(study),
        _claims_on_several(study),
        _failures(),
        _frozen(kept),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _models(kept: Kept, study: Study) -> str:
    def said(path: str, how: Callable[[Any], str] = str) -> str:
        try:
            return how(fetch(kept.spec, path))
        except KeyError:
            return ""

    tokens = said("budget.tokens", amount)
    batch, optimizer = said("budget.batch_tokens", lambda n: f"{n:,}"), said("optim.name")
    shape = [f"{word} {said(f'model.{word}')}" for word in ("depth", "width", "heads", "context")]
    shape = [part for part in shape if part.split(" ", 1)[1]]
    first = next(iter(study.sizes), "")
    counted = [
        kept.on(block.name)[0].parameters.get("non_embedding")
        for block in study.blocks
        if block.corpus == study.blocks[0].corpus
    ]
    size = f"; {', '.join(map(amount, counted))} parameters without embeddings" if all(counted) else ""
    shaped = f"{f'at {first} ' if first and shape else ''}{', '.join(shape)}"
    text = f"We trained decoder-only language models ({shaped}{size})"
    text += f" on {tokens} tokens" if tokens else ""
    text += f" in batches of {batch}" if batch else ""
    text += f" with {optimizer}" if optimizer else ""
    precision = said("precision")
    return f"{text}{f' in {precision}' if precision else ''}."


def _arms(kept: Kept, study: Study) -> str:
    arms = kept.on(kept.arms[0].corpus)
    others = len(arms) - 1 - bool(kept.placebo)
    where = f", on each of {len(study.corpora)} corpora" if len(study.corpora) > 1 else ""
    where += f", at each of {len(study.sizes)} sizes ({', '.join(study.sizes)})" if study.sizes else ""
    text = (
        f"{_counted(others, 'arm')} {'was' if others == 1 else 'were'} compared with the baseline "
        f"{kept.baseline}{where}; their specifications differ in {', '.join(study.axis)} and nowhere else "
        "that is not declared."
    )
    if kept.placebo:
        redrawn = next(arm.redraw for arm in arms if arm.name == kept.placebo)
        text += (
            " A placebo arm, equal to the baseline but for the draws of "
            f"{', '.join(redrawn)}, shows what the seed alone does."
        )
    return text


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _matching(study: Study) -> str:
    match = study.match
    if match is None:
        return ""
    held = HELD[match.hold]
    own = "".join(f", of {arm} {knob}" for arm, knob in match.by_arm.items())
    return (
        f"{held[0].upper()}{held[1:]} was held within {100 * match.tolerance:g}% of the baseline's by "
        f"turning {match.by}{own}."
    )


def _tuning(study: Study) -> str:
    tune = study.tune
    if tune is None:
        return "No rate was tuned: every arm ran at that of its configuration."
    how = (
        "each test seed was trained at the best rate and at its better neighbour, and the better on "
        "validation was kept"
        if tune.nested
        else "the vertex of a parabola in log rate, through the best rate and its neighbours, was taken"
    )
    return (
        f"{tune.path} was tuned for every arm over the same grid "
        f"({', '.join(f'{rate:g}' for rate in tune.rates)}), widened for all where the best lay at its edge, "
        f"on {_counted(len(tune.seeds), 'seed')} that served for nothing else, by {tune.metric}; {how}. "
        f"Every arm was also run at the baseline's rate.{_sensitive(study)}"
    )


def _sensitive(study: Study) -> str:
    if study.tune is None or not study.tune.of_loss:
        return ""
    return (
        f" The same runs give the sensitivity to {study.tune.path} (Wortsman et al. 2023): the mean over the "
        "rates that every arm has of min(l, l0) less the least l, where l0 is the measured loss before "
        "training and runs that diverged count as l0; its interval is a percentile bootstrap over the tuning "
        "seeds."
    )


def _seeds(study: Study) -> str:
    return (
        f"Every arm was trained with seeds {numbers(study.seeds)} ({len(study.seeds)} in all). A seed sets "
        "the initial values, keyed by the names of the parameters, and the order of the data, so that arms "
        "share both."
    )


def _scoring(study: Study) -> str:
    what = f"The primary metric is {study.metric} ({study.better} is better), taken at the last step"
    what += " on all of the held-out split" if study.metric.startswith("heldout") else ""
    rest = f"; {', '.join(study.measures)} are described only" if study.measures else ""
    margin = f" Differences below {study.margin:g} were declared not to matter." if study.margin else ""
    return f"{what}{rest}.{margin}"


def _test(kept: Kept, study: Study) -> str:
    family = _counted(len(kept.on(kept.arms[0].corpus)) - 1, "comparison")
    if counts(study.metric):
        return (
            f"The family is all {family} with the baseline. Each run solves its task or does not; verdicts "
            "are read off Fisher's exact test on the counts, with Holm's adjustment over the arms, at the "
            f"level {study.alpha:g}; runs that diverged count as not solved."
        )
    how = (
        "Student's t on the differences by seed, at the level that Bonferroni gives each comparison"
        if study.variance == "paired"
        else "Dunnett's interval in the blocked model metric ~ arm + seed with one residual variance"
    )
    equivalent = ", and equivalent if it contains 0 and lies within the margin" if study.margin else ""
    return (
        f"The family is all {family} with the baseline. Verdicts are read from one simultaneous interval for "
        f"each arm ({how}; family-wise level {study.alpha:g}): an arm is better or worse if it excludes 0"
        f"{equivalent}; otherwise it is undecided."
    )


LOOKED_AT = ("study.seeds", "study.looks")


def _looks(study: Study, plan: KeptPlan | None) -> str:
    looks = study.declared_looks
    moved = [rule for rule in plan.moved_rules if rule.startswith(LOOKED_AT)] if plan else []
    if moved:
        return (
            f"The data were judged at {_counted(len(study.seeds), 'seed')}, which is not what was frozen "
            f"({'; '.join(moved)}): no level was kept for earlier looks."
        )
    if len(looks) < 2:
        return f"The data were judged once, at {_counted(len(study.seeds), 'seed')}."
    return (
        f"The data were judged at {', '.join(map(str, looks))} seeds, as declared, with the level split "
        "evenly over these looks."
    )


def _factors(study: Study) -> str:
    design = study.design
    if design.kind not in ("factorial", "add_one_in", "leave_one_out") or counts(study.metric):
        return ""
    alone = (
        "each factor was added alone to one end and left out of the other, judged by Student's t on the "
        "differences by seed, Bonferroni over the contrasts"
    )
    binary = all(len(levels) == 2 for levels in design.factors.values())
    if design.kind != "factorial" or (study.exclude and binary):
        return f"{alone[0].upper()}{alone[1:]}."
    if study.exclude:
        return ""
    text = (
        "Main effects and two-way interactions are those of metric ~ (factors)^2 + seed with sum coding, "
        "their intervals simultaneous by Bonferroni"
    )
    return f"{text}; beside them, {alone}." if binary else f"{text}."


def _scale(study: Study) -> str:
    if not study.sizes or counts(study.metric):
        return ""
    how = (
        f"Student's t on n {MINUS} 1 degrees of freedom for n seeds, Bonferroni over the arms"
        if study.variance == "paired"
        else "Dunnett's interval in the blocked model slope ~ arm + seed"
    )
    return (
        "All of this was done at each size apart. For each arm and seed the slope of the metric on the "
        "decimal logarithm of the baseline's parameters without embeddings was fitted by least squares; an "
        f"arm's slope less the baseline's at the same seed is that of its gap, judged by {how}, as one "
        "family beside those of the sizes. Ranks at two sizes are compared by Kendall's tau-b of the means."
    )


def _claims_on_several(study: Study) -> str:
    """How claims were judged that have no interval of the verdicts."""
    measures = {claim.measure for claim in study.claims}
    said = []
    if any(claim.parsed.kind == "level" for claim in study.claims):
        said.append("Claims on a level are read off Student's interval over the seeds of their arm.")
    if "tuning/sensitivity" in measures:
        said.append("Claims on sensitivity are read off Student's interval over tuning seeds, paired.")
    if any(counts(claim.measure or study.metric) for claim in study.claims):
        said.append(
            "Claims on failures are read off Fisher's exact test, and Clopper and Pearson's interval."
        )
    return " ".join(said)


def _failures() -> str:
    return (
        "Runs that diverged count against their arm (Fisher's exact test, Holm over the arms), and quality "
        "is compared among the finished; no run was dropped."
    )


def _frozen(kept: Kept) -> str:
    plan = kept.plan
    if plan is None:
        return "The plan was not frozen before the runs."
    when = "before the first test run" if plan.test_runs == 0 else f"after {plan.test_runs} test runs"
    count = len(plan.amendments)
    changed = (
        f"with {count} later amendment{'s' if count > 1 else ''}" if count else "and followed as planned"
    )
    return f"The plan was frozen {when} (hash {re.sub(r'[^0-9a-f]', '', plan.hash)}) {changed}."
