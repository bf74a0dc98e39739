"""Shorter budgets that branch off the test runs: what is planned, refused, judged and shown."""

from pathlib import Path
from typing import Any

import pytest
from report_world import finished, planned, world
from study_fakes import Fake
from test_design_runs import Trained

from ablate.study.design.forecast import outlook
from ablate.study.design.runs import PlannedRun, stages, typed
from ablate.study.design.study import StudyError, parse_study
from ablate.study.judge.corpus import judge_results
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report.figures import draw_corpus
from ablate.study.report.tables import corpus_tables

WSD = 'schedule={"name":"wsd","warmup":5,"decay":0.25}'
BUDGETS: dict[str, Any] = {"base": [WSD], "budgets": [0.25, 0.5, 1]}


def test_every_test_run_has_branches_which_come_after_it() -> None:
    plan = planned(**BUDGETS, seeds=4, interim_seeds=[2, 4])
    found = list(stages(plan, Fake(Trained({}))))
    assert [stage.name for stage in found] == [
        "look at 2 seeds", "shorter budgets at 2 seeds", "look at 4 seeds", "shorter budgets at 4 seeds",
    ]  # fmt: skip
    stems = {run.id: run for run in found[0].runs}
    assert {run.role for run in found[0].runs} == {"test"}
    assert {(run.arm, run.seed, run.budget) for run in found[1].runs} == {
        (run.arm, run.seed, budget) for run in stems.values() for budget in (0.25, 0.5)
    }
    for run in found[1].runs:
        stem = stems[run.stem]
        assert (stem.arm, stem.seed) == (run.arm, run.seed) and run.id != stem.id
        assert run.spec["budget"]["tokens"] == run.budget * stem.spec["budget"]["tokens"]
        assert f"budget.tokens={run.spec['budget']['tokens']}" in typed(plan, run)
    assert len(found[1].later) == len(found[2].runs) + len(found[3].runs)


def test_the_plan_counts_branches_by_their_decay() -> None:
    plan = planned(**BUDGETS, seeds=4)
    told = outlook(plan)
    assert told["runs"]["budget"]["planned"] == 3 * 4 * 2 and "0.25, 0.5 of its tokens" in told["protocol"][0]
    first = next(iter(stages(plan, Fake(Trained({})))))
    hours = outlook(plan, [*first.runs, *first.later], seconds={("base", "rope"): 3600.0})["hours"]
    assert hours == pytest.approx(12 * (1 + 0.25 * (0.25 + 0.5)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": [0.5, 0.25, 1]}, "ascending shares"),
        ({"budgets": [0.25, 0.5]}, "the last 1"),
        ({"budgets": [1]}, "the whole budget alone"),
        ({"budgets": [0.5, 1], "effect_in_tokens": True}, "budgets of its own"),
    ],
)
def test_what_contradicts_is_refused(changes: dict[str, Any], said: str) -> None:
    plain = {
        "question": "?", "axis": ["model.norm"], "baseline": "a", "arms": {"a": [], "b": []}, "tune": "fixed",
    }  # fmt: skip
    with pytest.raises(StudyError, match=said):
        parse_study({**plain, **changes})


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ('schedule={"name":"cosine","warmup":5}', "share a stem on the schedule wsd"),
        ('schedule={"name":"wsd","warmup":0.02}', "a warm-up in steps alone"),
        ('schedule={"name":"wsd","warmup":30,"decay":0.5}', "would begin in the warm-up of 30"),
    ],
)
def test_runs_that_share_no_stem_are_refused(schedule: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        planned(base=[schedule], budgets=[0.5, 1])


def test_gaps_are_shown_against_training_length(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        said = finished(run)
        gap = 0.3 * (1 - run.budget) if run.arm == "none" else 0.0
        return {**said, "value": said["value"] + gap}

    results = world(tmp_path, outcome, **BUDGETS, seeds=5)
    judgement = judge_study(results)
    (judged,) = judgement.corpora
    gaps = {(gap.arm, gap.budget): gap for gap in judged.budget_gaps}
    assert {budget for _, budget in gaps} == {0.25, 0.5, 1.0}
    assert judged.comparison is not None
    assert gaps["none", 1.0].difference == judged.comparison.verdict("none").difference
    assert gaps["none", 0.25].difference == pytest.approx(0.09 + 0.3 * 0.75, abs=0.03)
    (table,) = [t for t in corpus_tables(judgement, judged) if t.title == "Gaps against training length"]
    assert table.columns[1:] == ("0.25 of the tokens", "0.5 of the tokens", "1 of the tokens")
    assert "budgets" in {drawing.name for drawing in draw_corpus(judgement, judged)}


def test_an_arm_may_be_better_at_equal_tokens_and_worse_at_equal_time(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        tokens = run.budget * (1.3 if run.arm == "none" else 1.0)
        noise = 0.001 * ((run.seed * 7 + ord(run.arm[0]) * (run.seed + 3)) % 5)
        return {"status": "finished", "value": 1.4 + 0.6 * tokens**-0.4 + noise}

    results = world(tmp_path, outcome, **BUDGETS, seeds=5)
    slow = results.runs["arm"] == "none"
    results.runs.loc[slow, "speed/seconds"] = 25.0
    judgement = judge_study(results)
    found = {each.arm: each for each in judgement.corpora[0].speed_ups}
    assert found["none"].tokens.multiple == pytest.approx(1.3, abs=0.05)
    assert found["none"].seconds is not None
    assert found["none"].seconds.multiple == pytest.approx(0.65, abs=0.03)
    assert "better at equal tokens" in found["none"].words and "worse at equal time" in found["none"].words
    (table,) = [t for t in corpus_tables(judgement, judgement.corpora[0]) if t.title == "Effective speed-up"]
    assert {row[0]: row[4] for row in table.rows}["none"] == found["none"].words


def test_a_study_without_shorter_budgets_shows_nothing(tmp_path: Path) -> None:
    (judged,) = judge_results(world(tmp_path, seeds=3))
    assert judged.budget_gaps == () and judged.slope is None and judged.speed_ups == ()
