"""Arms that are decided at a declared look get no more seeds; error rates over whole simulated studies.

python tests/study/test_stopping.py 4000     prints the rates that docs/statistics.md quotes
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from report_world import finished, planned, save, world
from study_fakes import Fake
from test_judge_simulation import HELDOUT, SD, Simulation, at_most, between

from ablate.engine.store import Store
from ablate.study.design.claim import Claim
from ablate.study.design.forecast import outlook
from ablate.study.design.runs import PlannedRun, stages, tidy
from ablate.study.design.study import Study, StudyError, parse_study
from ablate.study.judge.claims import judge
from ablate.study.judge.compare import Comparison, compare
from ablate.study.judge.corpus import arms_going_on, judge_results
from ablate.study.judge.stopping import ArmStop, Look, walk_looks
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report.methods import methods
from ablate.study.report.tables import corpus_tables
from ablate.study.results import Results, collect
from ablate.study.stats.power import Setting, detectable

ARMS = {name: [f"model/position={name}"] for name in ("rope", "alibi", "learned", "none")}
LOOKS = (3, 5, 8)
EARLY: dict[str, Any] = {"arms": ARMS, "seeds": 8, "interim_seeds": [3, 5, 8], "equivalence_margin": 0.02}


def sequential(folder: Path, **changes: Any) -> Results:
    """A study whose arms stop by the judge's own word, look by look; each call resumes from the store."""
    made = planned(**{"placebo": True, **EARLY, **changes})
    store = Store(folder / "runs")
    called: list[PlannedRun] = []

    def going_on(runs: Sequence[PlannedRun]) -> set[tuple[str, str]]:
        return arms_going_on(collect(made, runs, store, name="s"))

    for stage in stages(made, Fake(lambda runs: tidy(runs, store.find)), going_on):
        for run in stage.runs:
            save(store, run, finished(run))
        called += stage.runs
    return collect(made, called, store, name="s")


def test_an_arm_that_is_decided_gets_no_more_seeds(tmp_path: Path) -> None:
    results = sequential(tmp_path)
    (judged,) = judge_results(results)
    assert judged.comparison is not None and judged.stops
    tests = results.runs[results.runs["role"] == "test"]
    seeds = tests.groupby("arm")["seed"].nunique().to_dict()
    assert {arm: stop.seeds for arm, stop in judged.stops.items()} == {
        arm: n for arm, n in seeds.items() if n < seeds["rope"]
    }
    for verdict in judged.comparison.verdicts:
        assert verdict.n == seeds[verdict.arm] == verdict.look
        stopped = verdict.arm in judged.stops
        assert not stopped or verdict.word in ("better", "worse", "equivalent")
    assert seeds["placebo"] == seeds["rope"] == 8 > min(seeds.values())


def test_the_placebo_stops_with_the_last_of_the_others(tmp_path: Path) -> None:
    results = sequential(tmp_path, arms={name: ARMS[name] for name in ("rope", "none")})
    (judged,) = judge_results(results)
    assert judged.stops["placebo"].seeds == judged.stops["none"].seeds < 8
    assert judged.stops["placebo"].reason == "every other arm has stopped"
    assert results.runs["seed"].nunique() == judged.stops["none"].seeds


def test_an_arm_that_has_stopped_is_judged_by_its_own_seeds_whatever_else_was_run(tmp_path: Path) -> None:
    (short,) = judge_results(sequential(tmp_path / "short"))
    (whole,) = judge_results(world(tmp_path / "whole", **EARLY))
    assert short.comparison and whole.comparison
    assert short.stops == whole.stops and short.comparison.verdicts == whole.comparison.verdicts


def test_an_open_claim_keeps_its_arms_running(tmp_path: Path) -> None:
    free = sequential(tmp_path / "free")
    (judged,) = judge_results(free)
    first, second = list(judged.stops)[:2]
    claim = {"id": "C1", "predicate": f"{first} ~ {second} within 0.000001"}
    (claimed,) = judge_results(sequential(tmp_path / "claimed", claims=[claim]))
    word = claimed.claims[0].word
    assert word == "fail" or not {first, second} & {*claimed.stops}
    failed = {"id": "C2", "predicate": f"{first} < {second}", "measure": "stability/failed"}
    (counted,) = judge_results(sequential(tmp_path / "counted", claims=[failed]))
    assert not {first, second} & {*counted.stops}, "counts of three runs settle nothing"


def test_a_look_with_missing_runs_stops_nothing_and_calls_for_nothing(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        return {"status": "crashed"} if (run.arm, run.seed) == ("alibi", 1) else finished(run)

    results = world(tmp_path, lambda run: outcome(run) if run.seed < 3 else None, **EARLY)
    first = results.runs[results.runs["seed"] < 3]
    going = {
        arm for _, arm in arms_going_on(Results(results.manifest, first, results.curves, results.documents))
    }
    assert "alibi" not in going and "placebo" in going
    (judged,) = judge_results(results)
    assert "alibi" not in judged.stops and judged.stops


def test_the_report_says_when_each_arm_stopped_and_why(tmp_path: Path) -> None:
    results = sequential(tmp_path)
    judgement = judge_study(results)
    (table,) = [t for t in corpus_tables(judgement, judgement.corpora[0]) if t.title == "Looks"]
    rows = {row[0]: row for row in table.rows}
    for arm, stop in judgement.corpora[0].stops.items():
        assert rows[arm][1] == str(stop.seeds) and rows[arm][2].startswith(f"stopped, {arm}")
    assert rows["placebo"][1:] == ("8", "all seeds: not decided before")
    assert "got no more seeds" in methods(results)


def test_the_plan_says_what_may_stop() -> None:
    told = outlook(planned(placebo=True, **EARLY))["protocol"]
    assert "judged at 3, 5, 8 seeds, at 0.017 each" in told[0] and len(told) == 1
    sizes = {"small": ["model.depth=2"], "large": ["model.depth=4"]}
    told = outlook(planned(placebo=True, **EARLY, sizes=sizes))["protocol"]
    assert "all 8 seeds, for its slope" in told[1]


def test_cells_of_a_factorial_have_all_seeds_unless_effects_are_given_up(tmp_path: Path) -> None:
    factors = {
        "norm": {"layer": ["model/norm=layer"], "rms": ["model/norm=rms"]},
        "position": {"learned": ["model/position=learned"], "rope": ["model/position=rope"]},
    }
    study = {
        "arms": {}, "baseline": None, "axis": ["model.norm", "model.position"],
        "design": {"kind": "factorial", "factors": factors},
    }  # fmt: skip
    (kept,) = judge_results(sequential(tmp_path / "kept", **study))
    assert kept.factorial is not None and not {*kept.stops} - {"placebo"}
    (free,) = judge_results(sequential(tmp_path / "free", **study, effects=False))
    assert free.factorial is None and not free.ingredients and free.stops
    assert free.comparison and kept.comparison
    assert free.comparison.alpha_spent == pytest.approx(2 * kept.comparison.alpha_spent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [2, 0, 1], "interim_seeds": [2, 3]}, "added in ascending order"),
        ({"effects": False}, "a design of kind arms has none"),
    ],
)
def test_what_contradicts_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        parse_study({**PLAIN, **changes})


# ------------------------------------------------------------------------------------ whole studies

PLAIN: dict[str, Any] = {
    "question": "?", "axis": ["model.norm"], "baseline": "base",
    "arms": {"base": [], "arm0": [], "arm1": [], "arm2": []}, "tune": "fixed", "equivalence_margin": SD,
}  # fmt: skip


def stopping_study(looks: tuple[int, ...], claims: Sequence[Claim] = ()) -> Study:
    return parse_study(
        {
            **PLAIN,
            "seeds": looks[-1],
            "interim_seeds": list(looks),
            "claims": [claim.model_dump(exclude_none=True) for claim in claims],
        }
    )


def run_study(
    simulation: Simulation, study: Study, spent: bool = True
) -> tuple[Comparison, int, tuple[str, ...]]:
    """A whole study whose arms stop: the last comparison, the runs it took, the words of its claims.

    Without `spent` every look has the whole of alpha.
    """
    frame, looks = simulation.study(), study.declared_looks
    alpha = study.alpha * (1 if spent else len(looks))

    def compared(n: int, stops: Mapping[str, ArmStop]) -> Comparison:
        stopped = {arm: stop.seeds for arm, stop in stops.items()}
        rows = frame[frame["seed"] < n]
        return compare(
            rows, "base", HELDOUT, SD, study.interval, alpha, looks, "lower", "test", None, stopped
        )

    def judged_at(n: int, stops: Mapping[str, ArmStop]) -> Look:
        comparison = compared(n, stops)
        return Look(comparison, judge(study.claims, comparison))

    stops = walk_looks(study, (), looks[-1], judged_at).stops
    end = compared(looks[-1], stops)
    seeds = [stops[arm].seeds if arm in stops else looks[-1] for arm in simulation.arms if arm != "base"]
    words = tuple(judgement.word for judgement in judge(study.claims, end))
    return end, sum(seeds) + max(seeds), words


def wrong_share(studies: int, effects: tuple[float, ...], spent: bool = True, generator: int = 0) -> float:
    """The share of studies in which an arm that is equal to the baseline is called better or worse."""
    simulation, study = Simulation(effects, LOOKS[-1], generator=generator), stopping_study(LOOKS)
    null = [f"arm{n}" for n, effect in enumerate(effects) if effect == 0]
    hits = 0
    for _ in range(studies):
        end, _, _ = run_study(simulation, study, spent)
        hits += any(end.verdict(arm).word in ("better", "worse") for arm in null)
    return hits / studies


def false_equivalence(studies: int) -> float:
    """The share of studies in which a difference as large as the margin is called equivalent."""
    simulation, study = Simulation((SD, 0.0, 0.0), 16), stopping_study((5, 9, 16))
    words = [run_study(simulation, study)[0].verdict("arm0").word for _ in range(studies)]
    return words.count("equivalent") / studies


CLAIMS = (Claim(id="C1", predicate="arm0 < arm1"), Claim(id="C2", predicate="arm1 < arm2"))


def false_claims(studies: int) -> float:
    """The share of null studies in which a claim between two arms passes or fails."""
    simulation, study = Simulation((0.0, 0.0, 0.0), LOOKS[-1]), stopping_study(LOOKS, CLAIMS)
    return sum(bool({"pass", "fail"} & {*run_study(simulation, study)[2]}) for _ in range(studies)) / studies


def power_and_runs(studies: int) -> tuple[float, float]:
    """How often a planted effect of the detectable size is found, and the share of all runs that it took,
    where the two other arms differ by ten times as much."""
    effect = detectable(LOOKS[-1], Setting(3, SD, "paired", looks=len(LOOKS)))
    simulation, study = Simulation((-effect, 0.2, 0.2), LOOKS[-1]), stopping_study(LOOKS)
    ends = [run_study(simulation, study) for _ in range(studies)]
    found = sum(end.verdict("arm0").word == "better" for end, _, _ in ends) / studies
    return found, sum(runs for _, runs, _ in ends) / studies / (4 * LOOKS[-1])


def test_stopping_keeps_the_level() -> None:
    studies = 60
    assert wrong_share(studies, (0.0, 0.0, 0.0)) <= at_most(0.05, studies)
    assert wrong_share(studies, (0.2, 0.0, 0.0)) <= at_most(0.05, studies)


def test_a_planted_effect_is_found_with_the_promised_power_and_fewer_runs() -> None:
    studies = 60
    found, share = power_and_runs(studies)
    assert found >= between(0.8, studies)[0] and share < 0.85


@pytest.mark.slow
def test_stopping_keeps_the_level_over_many_studies() -> None:
    studies = 3000
    assert wrong_share(studies, (0.0, 0.0, 0.0)) <= at_most(0.05, studies)
    assert wrong_share(studies, (0.2, 0.0, 0.0)) <= at_most(0.05, studies)
    assert wrong_share(studies, (0.0, 0.0, 0.0), spent=False) > at_most(0.06, studies)
    assert false_equivalence(studies // 3) <= at_most(0.025, studies // 3)
    assert false_claims(studies // 3) <= at_most(0.05 + 0.05, studies // 3)  # verdicts have a family beside
    found, share = power_and_runs(studies // 3)
    assert found >= between(0.8, studies // 3)[0] and share < 0.8


def report(studies: int) -> None:
    """Print the measured rates, with their Monte Carlo errors."""

    def line(name: str, rate: float, promised: str) -> None:
        error = (rate * (1 - rate) / studies) ** 0.5
        print(f"{name:74} {100 * rate:5.2f} % +- {100 * error:.2f}   promised {promised}", flush=True)

    null, beside = (0.0, 0.0, 0.0), (0.2, 0.0, 0.0)
    looks = "null, arms stop at 3, 5, 8"
    line(f"{looks}, every look at all of alpha (before)", wrong_share(studies, null, False), "nothing")
    line(f"{looks}, alpha split (after)", wrong_share(studies, null), "5 %")
    line("the same, beside an arm that differs and stops early", wrong_share(studies, beside), "5 %")
    line("a difference of the margin is equivalent, looks 5, 9, 16", false_equivalence(studies), "2.5 %")
    line("null, a claim between two arms passes or fails", false_claims(studies), "5 %")
    found, share = power_and_runs(studies)
    line("an effect at the detectable size is called better", found, "80 %")
    print(f"runs, where two of three arms differ by ten sd: {100 * share:.0f} % of those without stopping")


if __name__ == "__main__":
    report(int(sys.argv[1]))
