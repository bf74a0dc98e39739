"""The runs of a plan, stage by stage; what it will cost and decide; and the frozen plan."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_fakes import RATES, Fake, identify, study

from ablate.record import RunRecord
from ablate.spec import RunSpec, digest
from ablate.study.design.forecast import count_runs, outlook, seen_noise
from ablate.study.design.freeze import amendments, freeze, frozen
from ablate.study.design.plan import plan
from ablate.study.design.planned import Plan, seeded
from ablate.study.design.runs import PlannedRun, Stage, stages, tidy, tuning_runs, typed
from ablate.study.design.study import StudyError
from ablate.study.judge.compare import compare
from ablate.study.stats.tuning import keep_better

TUNE = {"optim.lr": RATES, "fixed_rate_table": True}


def planned(**changes: Any) -> Plan:
    fake = Fake()
    return plan(study(**{"tune": TUNE, **changes}), fake)


class Trained:
    """Runs that have ended: a parabola in log rate whose best rate is given for each arm."""

    def __init__(self, best: dict[str, float], diverge: dict[str, float] | None = None) -> None:
        self.best, self.diverge = best, diverge or {}
        self.absent: set[str] = set()
        self.records: dict[str, RunRecord] = {}

    def __call__(self, runs: Sequence[PlannedRun]) -> pd.DataFrame:
        for run in runs:
            if run.id not in self.absent:
                self.records[run.id] = self.record(run)
        return tidy(runs, self.records.get)

    def record(self, run: PlannedRun) -> RunRecord:
        rate = run.spec["optim"]["lr"]
        noise = np.random.default_rng([run.seed, len(run.arm)]).normal(0, 0.001)
        loss = 2 + np.log(rate / self.best.get(run.arm, 1e-3)) ** 2 / 100 + noise
        fails = rate > self.diverge.get(run.arm, 1.0)
        return RunRecord(
            id=run.id,
            status="diverged" if fails else "finished",
            source_hash="c",
            spec=run.spec,
            fingerprint={},
            metrics={} if fails else {"validation/loss": loss, "heldout/loss": loss + 0.1},
        )


def walk(plan: Plan, trained: Trained) -> list[Stage]:
    """Every stage, each run before the next is taken."""
    found = []
    for stage in stages(plan, Fake(trained)):
        trained(stage.runs)
        found.append(stage)
    return found


def test_tuning_gives_every_arm_the_same_grid_and_the_placebo_too() -> None:
    runs = tuning_runs(planned(placebo=True), identify)
    assert len(runs) == 4 * 5 * 2 == len({run.id for run in runs})
    assert {run.seed for run in runs} == {1000, 1001}
    assert {(run.arm, run.rate) for run in runs} == {
        (arm, rate) for arm in ("rope", "alibi", "none", "placebo") for rate in RATES
    }
    assert all(run.spec["optim"]["lr"] == run.rate for run in runs)
    assert {tuple(run.spec["seed"]["redraw"]) for run in runs if run.arm == "placebo"} == {("layers.*",)}


def test_ids_are_stable_and_those_of_the_roles_disjoint() -> None:
    first, second = (walk(planned(placebo=True), Trained({"alibi": 2e-3})) for _ in range(2))
    assert [[run.id for run in stage.runs] for stage in first] == [[r.id for r in s.runs] for s in second]
    tuning = {run.id for stage in first if stage.name == "tuning" for run in stage.runs}
    judged = {run.id for stage in first if stage.name != "tuning" for run in stage.runs}
    assert tuning and judged and not tuning & judged
    assert {run.seed for stage in first[1:] for run in stage.runs} == set(range(6))


def test_each_arm_is_tested_at_its_own_rate_and_at_the_baselines() -> None:
    tuned, tests = walk(planned(), Trained({"rope": 1e-3, "alibi": 1.5e-3}))
    assert tuned.name == "tuning" and tests.name == "look at 6 seeds"
    rates = {(run.arm, run.role): run.rate for run in tests.runs}
    assert rates["rope", "test"] == rates["rope", "fixed"] == rates["alibi", "fixed"]
    assert rates["alibi", "test"] == pytest.approx(1.5e-3, rel=0.1)
    same = [run.id for run in tests.runs if run.arm == "rope" and run.seed == 0]
    assert len(same) == 2 and len(set(same)) == 1  # the baseline's test run is its fixed run


def test_an_edge_extends_the_grid_of_every_arm() -> None:
    trained = Trained({"alibi": 4e-3})
    tuned, wider, tests = walk(planned(), trained)
    added = {run.rate for run in wider.runs} - {run.rate for run in tuned.runs}
    assert added and min(added) > 3e-3
    assert not {run.id for run in tuned.runs} & {run.id for run in wider.runs}, "a run is named once"
    assert {run.arm for run in wider.runs if run.rate in added} == {"rope", "alibi", "none"}
    assert {run.rate for run in tests.runs if run.arm == "alibi" and run.role == "test"} != {3e-3}


def test_beside_a_failed_rate_the_grid_is_refined_and_every_arm_is_tested_at_the_rates_of_all() -> None:
    coarse = {"optim.lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2], "seeds": 2, "fixed_rate_table": True}
    trained = Trained({"rope": 1e-3, "alibi": 4e-3}, {"alibi": 4e-3})
    tuned, finer, tests = walk(planned(tune=coarse), trained)
    added = {run.rate for run in finer.runs} - {run.rate for run in tuned.runs}
    assert sorted(added) == pytest.approx([5.48e-3]) and len(finer.runs) == 3 * 2
    rates = {(run.arm, run.rate) for run in tests.runs if run.role == "test"}
    assert rates == {(arm, rate) for arm in ("rope", "alibi", "none") for rate in (1e-3, 3e-3)}
    assert {run.rate for run in tests.runs if run.role == "fixed"} == {1e-3}


def test_an_edge_without_end_is_refused() -> None:
    with pytest.raises(StudyError, match="best rate of alibi on base still lies at the edge"):
        walk(planned(), Trained({"alibi": 1e6}, diverge={}))


def test_the_study_waits_for_a_missing_tuning_run() -> None:
    trained = Trained({})
    trained.absent = {tuning_runs(planned(), identify)[3].id}
    assert [stage.name for stage in walk(planned(), trained)] == ["tuning"]


def test_an_arm_without_a_rate_is_tested_at_the_baselines() -> None:
    _, tests = walk(planned(), Trained({}, diverge={"none": 0.0}))
    assert {run.rate for run in tests.runs if run.arm == "none"} == {
        run.rate for run in tests.runs if run.arm == "rope"
    }
    assert "none on base: no rate is eligible" in tests.notes[0]
    with pytest.raises(StudyError, match="the baseline rope on base: no rate is eligible"):
        walk(planned(), Trained({}, diverge={"rope": 0.0}))


def test_an_arm_that_is_refused_in_training_keeps_no_other_waiting() -> None:
    trained = Trained({})
    made = trained.record

    def refusing(run: PlannedRun) -> RunRecord:
        refused = {"status": "refused", "metrics": {}}
        return made(run).model_copy(update=refused if run.arm == "none" else {})

    trained.record = refusing  # type: ignore[method-assign]
    _, tests = walk(planned(), trained)
    assert {run.arm for run in tests.runs} == {"rope", "alibi", "none"}
    assert compare(trained(tests.runs), "rope", "heldout/loss", 0.02, "paired").refused == ("none",)


def test_runs_at_the_baselines_rate_are_made_only_where_they_are_asked_for() -> None:
    _, tests = walk(planned(tune={"optim.lr": RATES}), Trained({"alibi": 1.5e-3}))
    assert {run.role for run in tests.runs} == {"test"}
    told = outlook(planned(tune={"optim.lr": RATES}))
    assert "fixed" not in told["runs"] and "tune.fixed_rate_table: true" in told["protocol"][-1]


def test_arms_that_are_not_named_get_no_more_seeds_and_the_baseline_goes_on_with_any_arm() -> None:
    answers = [{("base", "alibi"), ("base", "none")}, {("base", "none")}]
    asked: list[int] = []

    def going_on(runs: Sequence[PlannedRun]) -> set[tuple[str, str]]:
        asked.append(len(runs))
        return answers[len(asked) - 1]

    looks = planned(seeds=8, interim_seeds=[3, 5, 8], tune="fixed", placebo=True)
    found = list(stages(looks, Fake(Trained({})), going_on))
    assert [{run.arm for run in stage.runs} for stage in found] == [
        {"rope", "alibi", "none", "placebo"}, {"rope", "alibi", "none"}, {"rope", "none"},
    ]  # fmt: skip
    assert asked == [12, 18] and [len(stage.later) for stage in found] == [20, 9, 0]
    answers[0] = set()
    asked.clear()
    assert len(list(stages(looks, Fake(Trained({})), going_on))) == 1


def test_looks_come_in_order() -> None:
    found = walk(planned(seeds=8, interim_seeds=[3, 8], tune="fixed"), Trained({}))
    assert [stage.name for stage in found] == ["look at 3 seeds", "look at 8 seeds"]
    assert [sorted({run.seed for run in stage.runs}) for stage in found] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert {run.role for stage in found for run in stage.runs} == {"test"}
    assert {run.rate for stage in found for run in stage.runs} == {None}
    assert {run.spec["optim"]["lr"] for stage in found for run in stage.runs} == {3e-3}


def test_nested_tuning_tests_two_rates_at_every_seed_and_the_judge_reads_it() -> None:
    trained = Trained({"alibi": 1.4e-3})
    found = planned(tune={**TUNE, "nested": True}, placebo=True)
    _, tests = walk(found, trained)
    mine = [run for run in tests.runs if run.arm == "alibi" and run.role == "test"]
    assert {run.rate for run in mine} == {1e-3, 2e-3} and len(mine) == 12
    kept, aside = keep_better(trained(tests.runs))
    assert len(aside) == 4 * 6
    judged = compare(kept, "rope", "heldout/loss", 0.02, "paired", looks=(6,), placebo="placebo")
    assert {verdict.arm for verdict in judged.verdicts} == {"alibi", "none", "placebo"}
    fixed = compare(kept, "rope", "heldout/loss", 0.02, "paired", looks=(6,), role="fixed")
    assert all(verdict.word != "waiting" for verdict in fixed.verdicts)


def test_corpora_are_tuned_apart() -> None:
    found = planned(corpora=["data=stdlib", "data=english"])
    tuned, tests = walk(found, Trained({}))
    assert len(tuned.runs) == 2 * 3 * 5 * 2
    assert {run.corpus for run in tests.runs} == {"stdlib", "english"}


def test_identity_is_asked_once_for_each_arm_and_rate() -> None:
    asked = []
    found = planned(placebo=True, seeds=500, tune="fixed", corpora={"a": "data=stdlib"})

    def counted(spec: dict[str, Any]) -> dict[str, Any]:
        asked.append(spec)
        return identify(spec)

    (stage,) = stages(found, Fake(Trained({}), counted))
    assert len(stage.runs) == 2000 == len({run.id for run in stage.runs})
    assert len(asked) == 4


def test_ids_are_those_of_the_specification() -> None:
    """What runs of train.py are called: the canonical form with the seed set is that of the whole."""
    from conftest import SMALL

    spec = RunSpec.model_validate(
        {
            "model": SMALL,
            "data": {"source": "stdlib", "tokenizer": "bytes"},
            "optim": "adamw",
            "schedule": "cosine",
            "budget": {"tokens": 4800, "batch_tokens": 48},
            "evaluation": {},
            "seed": 0,
        }
    )
    canonical = spec.canonical({"text": "t"})
    for redraw in ((), ("layers.*",)):
        node = seeded(json.loads(spec.model_dump_json()), 7, redraw)
        seed = node["seed"] if redraw else {k: v for k, v in node["seed"].items() if k != "redraw"}
        assert RunSpec.model_validate(node).id({"text": "t"}) == digest({**canonical, "seed": seed})


def test_what_a_person_would_type() -> None:
    found = planned(placebo=True)
    runs = tuning_runs(found, identify)
    alibi = next(run for run in runs if run.arm == "alibi")
    assert typed(found, alibi) == ["model/position=alibi", "optim.lr=0.0003", "seed=1000"]
    placebo = next(run for run in runs if run.arm == "placebo")
    assert typed(found, placebo)[-1] == 'seed={init: 1000, data: 1000, dropout: 1000, redraw: ["layers.*"]}'


def test_the_outlook_counts_finished_and_missing() -> None:
    found = planned(placebo=True)
    before = outlook(found, seconds={("base", "rope"): 36.0}, slots=2)
    assert before["runs"]["tuning"] == {"planned": 40, "finished": 0, "missing": 40}
    assert before["runs"]["all"]["planned"] == 40 + 24 + 18
    assert before["hours"] == pytest.approx(82 * 36 / 2 / 3600)
    trained = Trained({"alibi": 1.5e-3, "none": 1.5e-3, "placebo": 1.5e-3})
    tuned, tests = walk(found, trained)
    runs = [*tuned.runs, *tests.runs]
    done = count_runs(found, runs, set(trained.records))
    assert done["test"] == {"planned": 24, "finished": 24, "missing": 0}
    assert done["fixed"]["planned"] == 18  # the baseline's are its test runs
    assert outlook(found, runs, set(trained.records), seconds={("base", "rope"): 36.0})["hours"] == 0
    half = outlook(
        found, runs, {run.id for run in tuned.runs}, seconds={("base", "rope"): 10, ("base", "none"): 30}
    )
    assert half["hours"] == pytest.approx((6 * 10 + 12 * 30 + 24 * 20) / 3600)
    assert half["arms"][-1].redraw == ("layers.*",)


def test_the_outlook_warns_where_the_study_cannot_decide() -> None:
    claims = [
        {"id": "small", "predicate": "alibi < rope", "predicted": -0.001},
        {"id": "large", "predicate": "rope < none", "predicted": -0.2},
        {"id": "equal", "predicate": "rope ~ alibi within 0.01"},
        {"id": "exact", "predicate": "rope/alibi == 1"},
        {"id": "level", "predicate": "rope < 3", "predicted": 2.9},
    ]
    found = planned(claims=claims, equivalence_margin=0.01)
    told = outlook(found, noise=0.02)
    text = "\n".join(told["warnings"])
    assert "cannot decide small: it predicts 0.001" in text
    assert "cannot decide equal: equivalence within 0.01 needs about" in text
    assert all(f"cannot decide {id}" not in text for id in ("large", "exact", "level"))
    assert "equivalence within 0.01 needs about" in text and "one corpus" in text
    fine = outlook(found, noise=0.0001)["power"][0]
    assert fine["seeds"] == 6 and 0 < fine["detectable"] < told["power"][0]["detectable"]
    assert any("no noise has been seen" in line for line in outlook(found)["warnings"])
    assert outlook(found)["power"][0]["detectable"] is None


def test_the_outlook_says_which_arm_differs_along_several_axes() -> None:
    arms = {"rope": [], "alibi": ["model/position=alibi"]}
    arms["both"] = ["model/position=alibi", "model.norm.eps=0.001"]
    told = outlook(planned(arms=arms, axis=["model.position", "model.norm"], placebo=True))["warnings"]
    said = [line for line in told if "at once" in line]
    assert len(said) == 1 and said[0].startswith(
        "both differs from rope in model.position, model.norm at once"
    )
    assert "{kind: factorial}" in said[0]


def test_the_outlook_counts_the_seeds_that_a_skill_needs() -> None:
    for seeds, warned in ((4, True), (5, False)):
        told = outlook(
            planned(metric="skill/solved", better="higher", seeds=seeds, equivalence_margin=0.1), noise=0.5
        )
        assert any("fewer than 5 seeds" in line for line in told["warnings"]) == warned
        assert told["power"][0]["detectable"] is None


def test_looks_share_alpha_in_the_outlook() -> None:
    power = outlook(planned(seeds=10, interim_seeds=[6, 10]), noise=0.01)["power"]
    assert [row["seeds"] for row in power] == [6, 10] and {row["alpha"] for row in power} == {0.025}
    assert power[0]["detectable"] > power[1]["detectable"]


def frame(role: str, differences: dict[str, list[float]], rate: float = 1e-3) -> pd.DataFrame:
    rows = []
    for arm, values in {"rope": [0.0] * 5, **differences}.items():
        for seed, value in enumerate(values):
            shared = 2 + 0.1 * seed
            rows.append(
                {"corpus": "base", "arm": arm, "role": role, "seed": seed, "rate": rate, "status": "finished"}
                | {"heldout/loss": shared + value, "validation/loss": shared + value}
            )
    return pd.DataFrame(rows)


def test_noise_is_the_sd_of_differences_and_blind_to_the_effect() -> None:
    found = planned(placebo=True)
    spread = [-0.02, 0.0, 0.01, 0.02, -0.01]
    sd = float(np.std(spread, ddof=1))
    for effect in (0.0, 5.0):
        assert seen_noise(found, frame("test", {"alibi": [v + effect for v in spread]})) == pytest.approx(sd)
    wide = {"alibi": [10 * v for v in spread], "placebo": spread}
    assert seen_noise(found, frame("test", wide)) == pytest.approx(sd)  # the placebo's own
    assert seen_noise(found, frame("tuning", {"alibi": spread})) == pytest.approx(sd)
    two_rates = pd.concat(
        [frame("tuning", {"alibi": spread}), frame("tuning", {"alibi": [v + 3 for v in spread]}, rate=2e-3)]
    )
    assert seen_noise(found, two_rates) == pytest.approx(sd)
    nested = pd.concat(  # the better run of each seed is judged
        [frame("test", {"alibi": [min(v, 0.0) for v in spread]}), frame("test", {"alibi": spread}, rate=2e-3)]
    )
    better = float(np.std([min(v, 0.0) for v in spread], ddof=1))
    assert seen_noise(found, nested) == pytest.approx(better)
    assert seen_noise(found, frame("test", {"alibi": [0.1]})) is None
    assert seen_noise(found, pd.DataFrame()) is None


YAML = """
question: Which position code is best?
axis: [model.position]
baseline: rope
arms: {rope: [], alibi: [model/position=alibi]}
placebo: false
tune: fixed
seeds: SEEDS
measures: [speed]
"""


def files(folder: Path, text: str) -> tuple[Path, Plan]:
    from ablate.study.design.study import load_study

    file = folder / "study.yaml"
    file.write_text(text)
    fake = Fake()
    return file, plan(load_study(file), fake)


def test_a_frozen_plan_stands_and_amendments_are_listed(tmp_path: Path) -> None:
    file, first = files(tmp_path, YAML.replace("SEEDS", "6"))
    assert frozen(tmp_path) is None
    there = freeze(file, first)
    assert amendments(there, file, first) == () and there.amendments == ()
    assert freeze(file, first) == there == frozen(tmp_path)
    assert there.first.date and there.first.test_runs == 0

    changed = YAML.replace("SEEDS", "8").replace(
        "alibi: [model/position=alibi]",
        "alibi: [model/position=alibi, model.position.max_slope_exponent=4.0], none: [model/position=none]",
    )
    file, second = files(tmp_path, changed)
    open_changes = {a.path: (a.frozen, a.now) for a in amendments(there, file, second)}
    assert open_changes["study.seeds"] == (6, 8)
    assert open_changes["arms[base/alibi].model.position.max_slope_exponent"] == (8.0, 4.0)
    assert open_changes["arms[base/none]"] == ("(absent)", "planned")
    assert not any(path.startswith("arms[base/none].") for path in open_changes)

    after = freeze(file, second, test_runs=5)
    assert after.first == there.first and len(after.versions) == 2
    assert {a.path for a in after.amendments} == set(open_changes)
    assert all(a.date == after.versions[1].date for a in after.amendments)
    assert after.versions[1].test_runs == 5
    assert [a.path for a in amendments(after, file, second)] == [
        a.path for a in amendments(there, file, second)
    ]


def test_an_amended_claim_is_named_by_its_id(tmp_path: Path) -> None:
    claims = (
        "claims: [{{id: C1, predicate: rope < alibi}}, {{id: C2, predicate: rope < alibi, predicted: {0}}}]"
    )
    text = YAML.replace("SEEDS", "6")
    assert "claims:" not in text
    there = freeze(*files(tmp_path, text + claims.format(-0.1)))
    (changed,) = amendments(there, *files(tmp_path, text + claims.format(0.1)))
    assert (changed.path, changed.frozen, changed.now) == ("study.claims.C2.predicted", -0.1, 0.1)


def test_what_was_not_declared_is_exploratory(tmp_path: Path) -> None:
    file, first = files(tmp_path, YAML.replace("SEEDS", "6"))
    there = freeze(file, first)
    assert there.exploratory(["alibi", "heldout/loss", "speed", "memory", "none"]) == ("memory", "none")


def test_a_frozen_plan_that_was_edited_is_refused(tmp_path: Path) -> None:
    file, first = files(tmp_path, YAML.replace("SEEDS", "6"))
    freeze(file, first)
    place = tmp_path / "plan.json"
    place.write_text(place.read_text().replace('"seeds": 6', '"seeds": 9'))
    with pytest.raises(StudyError, match="was edited after it was frozen"):
        frozen(tmp_path)
    place.write_text("{}")
    with pytest.raises(StudyError, match="no frozen plan"):
        freeze(file, first)
