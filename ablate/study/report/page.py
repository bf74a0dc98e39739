"""Everything that the templates of a report show."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.answer import answer, banners
from ablate.study.report.bars import bar
from ablate.study.report.claim_tables import claim_table
from ablate.study.report.drawing import Drawing
from ablate.study.report.markup import TEMPLATES
from ablate.study.report.methods import methods
from ablate.study.report.phrasing import verdict_in_words
from ablate.study.report.run_curves import run_curves
from ablate.study.report.scale_tables import scale_tables
from ablate.study.report.study_tables import (
    difference_table,
    failure_table,
    matching_table,
    origin_table,
    outcome_table,
)
from ablate.study.report.summary import ranked
from ablate.study.report.table import Table
from ablate.study.report.tables import corpus_tables, notes_on, verdict_table
from ablate.study.report.timing import timing_table
from ablate.study.results import Results

Drawings = Sequence[list[Drawing]]

OF_TOKENS = "tokens"  # the column of losses by token


def report_context(judgement: StudyJudgement, drawings: Drawings, scale_drawings: Drawings) -> dict[str, Any]:
    """The context of both templates. `drawings` has the figures of each corpus, `scale_drawings` those of
    each scale."""
    results, manifest, study = judgement.results, judgement.manifest, judgement.study
    return {
        "name": manifest.name,
        "question": study.question,
        "answer": answer(judgement),
        "banners": banners(judgement),
        "facts": _facts(judgement),
        "corpora": [
            _corpus(judgement, corpus, drawn)
            for corpus, drawn in zip(judgement.corpora, drawings, strict=True)
        ],
        "scales": [
            {
                "name": scale.text if len(judgement.scales) > 1 else "",
                "drawings": drawn,
                "tables": scale_tables(scale, study.metric, study.alpha),
            }
            for scale, drawn in zip(judgement.scales, scale_drawings, strict=True)
        ],
        "claims": claim_table(judgement.claimed),
        "timings": timing_table(results),
        "differences": _present(difference_table(manifest), matching_table(manifest)),
        "outcomes": _present(outcome_table(results), failure_table(results)),
        "plan": _plan(judgement),
        "methods": methods(results),
        "commands": _commands(judgement),
        "rebuild": shlex.join(["python", "sweep.py", f"experiment={manifest.name}", "report=true"]),
        "origin": origin_table(results),
        "notes": [*manifest.notes, *_arm_notes(results)],
        "study_notes": study.notes,
        "style": (TEMPLATES / "style.css").read_text(),
    }


def _present(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _facts(judgement: StudyJudgement) -> list[tuple[str, str]]:
    study, runs = judgement.study, judgement.results.runs
    runs = runs.drop_duplicates("id") if len(runs) else runs
    done = int((runs["status"] == "finished").sum())
    comparison = judgement.corpora[0].comparison
    look = "none yet" if comparison is None or comparison.look is None else f"{comparison.look} seeds"
    return [
        ("metric", f"{study.metric} ({study.better} is better)"),
        ("margin", f"{study.equivalence_margin:g}" if study.equivalence_margin else "none declared"),
        ("arms", str(len({arm.name for arm in judgement.manifest.arms}))),
        ("seeds", str(len(study.seeds))),
        ("judged at", look),
        ("interval", study.interval),
        ("runs finished", f"{done} of {len(runs)}"),
        *_reference_lines(judgement),
    ]


def _reference_lines(judgement: StudyJudgement) -> Iterator[tuple[str, str]]:
    """The losses of n-gram models of the same text, where the study has them."""
    for corpus in judgement.corpora:
        lines = ", ".join(f"{name} {loss:.2f}" for name, loss in corpus.reference.items())
        if lines:
            where = f" of {corpus.corpus}" if judgement.several else ""
            yield f"n-gram models{where}", f"{lines} (nats per token, validation)"


def _corpus(judgement: StudyJudgement, judged: Judged, drawings: list[Drawing]) -> dict[str, Any]:
    comparison, leaderboard = judged.comparison, verdict_table(judged)
    rows = []
    if comparison is not None and leaderboard is not None:
        for arm, cells in zip(ranked(judged), leaderboard.rows, strict=True):
            verdict = None if arm == comparison.baseline else comparison.verdict(arm)
            named = dict(zip(leaderboard.columns, cells, strict=True))
            rows.append(
                {
                    **{heading.replace(" ", "_"): cell for heading, cell in named.items()},
                    "word": verdict.word if verdict else "baseline",
                    "said": verdict_in_words(verdict) if verdict else "baseline",
                    "note": notes_on(verdict, comparison) if verdict else "",
                    "placebo": arm == judgement.manifest.placebo,
                    "bar": bar(comparison, verdict) if verdict else None,
                }
            )
    return {
        "name": judged.corpus if judgement.several else "",
        "reason": judged.reason,
        "leaderboard": leaderboard,
        "rows": rows,
        "beside": leaderboard is not None and "other text" in leaderboard.columns,
        "tokens": leaderboard is not None and OF_TOKENS in leaderboard.columns,
        "drawings": drawings,
        "tables": corpus_tables(judgement, judged),
        "curves": run_curves(judgement, judged),
        "slope": judged.slope.reason if judged.slope is not None and judged.slope.status == "blank" else "",
    }


def _plan(judgement: StudyJudgement) -> dict[str, Any]:
    plan = judgement.manifest.plan
    return {
        "frozen": plan is not None,
        "date": plan.date if plan else "",
        "hash": plan.hash if plan else "",
        "test_runs": plan.test_runs if plan else 0,
        "amendments": [(str(change), change.date) for change in plan.amendments] if plan else [],
        "exploratory": list(plan.exploratory) if plan else [],
        "excluded": list(judgement.study.exclude.items()),
    }


def _commands(judgement: StudyJudgement) -> list[tuple[str, str]]:
    """The command of the first test run of each arm and corpus; tables/runs.csv has that of every run."""
    runs = judgement.results.runs
    runs = runs[runs["role"] == "test"].drop_duplicates(["corpus", "arm"])
    return [
        (f"{arm} on {corpus}" if judgement.several else str(arm), str(command))
        for corpus, arm, command in zip(runs["corpus"], runs["arm"], runs["command"], strict=True)
    ]


def _arm_notes(results: Results) -> list[str]:
    """Why the placebo redraws what it does, why an arm acts."""
    notes = {(arm.name, arm.note): None for arm in results.manifest.arms if arm.note}
    return [f"{name}: {note}" for name, note in notes]
