"""Tuning by rounds: what is asked for, that it resumes, its errors and regret over whole simulated studies.

python tests/study/test_rounds.py 1500     prints the figures that docs/statistics.md quotes
"""

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_fakes import Fake
from test_design_runs import Trained, planned, walk
from test_judge_simulation import (
    CLIFFS,
    GRID,
    HELDOUT,
    MEANS,
    RUN,
    VALIDATION,
    Simulation,
    at_most,
    decides,
    mean_loss,
)

from ablate.study.design.forecast import outlook
from ablate.study.design.planned import Plan
from ablate.study.design.runs import stages
from ablate.study.design.study import StudyError, parse_study
from ablate.study.judge.compare import compare
from ablate.study.stats.rounds import Search, tune_by_rounds
from ablate.study.stats.tuning import keep_better

COARSE = {"optim.lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2], "search": "rounds"}
SEARCH = Search(GRID, (1000, 1001))


def rounds(**changes: Any) -> Plan:
    return planned(tune={**COARSE, **changes})


def tuning_of(plan: Plan, trained: Trained) -> dict[str, set[tuple[float, int]]]:
    """Every (rate, seed) that each arm was tuned at."""
    places: dict[str, set[tuple[float, int]]] = {}
    for stage in walk(plan, trained):
        for run in stage.runs:
            if run.role == "tuning" and run.rate is not None:
                places.setdefault(run.arm, set()).add((run.rate, run.seed))
    return places


def test_the_lattice_halves_wide_steps_and_reaches_beyond_the_grid() -> None:
    rates = SEARCH.lattice
    assert {*GRID} <= {*rates} and rates == sorted(rates)
    assert all(1.7 < high / low <= 2 for low, high in pairwise(rates))
    fine = Search((1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), (0, 1))
    assert {*fine.grid} <= {*fine.lattice} and 1.41e-3 not in fine.lattice  # a step of 2 is fine enough


def test_the_baseline_has_the_grid_and_the_others_a_bracket() -> None:
    found = walk(rounds(), Trained({"rope": 3e-3, "alibi": 3e-3, "none": 3e-3}))
    assert found[0].name == "tuning, round 1" and {run.arm for run in found[0].runs} == {"rope"}
    assert [(run.rate, run.seed) for run in found[0].runs] == [(rate, 1000) for rate in GRID]
    places = tuning_of(rounds(), Trained({"rope": 3e-3, "alibi": 3e-3, "none": 3e-3}))
    bracket = {(rate, seed) for rate in (1.73e-3, 3e-3, 5.48e-3) for seed in (1000, 1001)}
    assert places["alibi"] == places["none"] == bracket
    assert places["rope"] == bracket | {(rate, 1000) for rate in GRID}
    (tests,) = [stage for stage in found if stage.name.startswith("look")]
    assert all(run.rate == pytest.approx(3e-3, rel=0.05) for run in tests.runs if run.arm == "alibi")


def test_a_winner_at_the_edge_widens_until_it_has_neighbours_with_every_seed() -> None:
    trained = Trained({"rope": 3e-3, "alibi": 1.1e-2, "none": 6e-4})
    places = tuning_of(rounds(), trained)
    for arm, best in (("alibi", 1e-2), ("none", 5.48e-4)):
        at = SEARCH.lattice.index(best)
        around = {(rate, seed) for rate in SEARCH.lattice[at - 1 : at + 2] for seed in (1000, 1001)}
        assert around <= places[arm] and len(places[arm]) <= SEARCH.runs


def test_every_arm_has_the_same_budget_and_the_plan_says_so() -> None:
    told = outlook(rounds())
    assert "the same budget of 18 runs for every arm" in told["protocol"][0]
    assert told["runs"]["tuning"]["planned"] == 5 + 6 - 1 + 2 * 6
    with pytest.raises(StudyError, match="alibi on base: no best rate was found within 18 runs"):
        walk(rounds(), Trained({"alibi": 1e6}))


def test_a_rate_that_failed_is_shared_by_every_arm() -> None:
    trained = Trained({"rope": 3e-3, "alibi": 5e-3}, {"alibi": 6e-3})
    found = walk(rounds(), trained)
    tests = {(run.arm, run.rate) for run in found[-1].runs}
    rates = {rate for _, rate in tests}
    assert tests == {(arm, rate) for arm in ("rope", "alibi", "none") for rate in rates} and len(rates) == 3
    assert max(rates) == 5.48e-3


def test_a_study_resumes_where_it_was_and_waits_for_a_missing_run() -> None:
    trained = Trained({"rope": 3e-3, "alibi": 1.1e-2})
    first = walk(rounds(), trained)
    again = list(stages(rounds(), Fake(trained)))
    done = {run.id for stage in first for run in stage.runs}
    assert {run.id for stage in again for run in stage.runs if run.role == "tuning"} <= done
    assert [run.id for run in again[-1].runs] == [run.id for run in first[-1].runs]
    waiting = Trained({"rope": 3e-3})
    waiting.absent = {first[1].runs[-1].id}
    assert all(stage.name.startswith("tuning") for stage in walk(rounds(), waiting))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": {**COARSE, "seeds": 1}}, "search: rounds needs two tuning seeds"),
        ({"tune": {**COARSE, "search": "all"}}, "grid.*rounds"),
        (
            {"tune": COARSE, "claims": [{"id": "C1", "predicate": "a < b", "measure": "tuning/failed"}]},
            "read off a whole grid for every arm",
        ),
    ],
)
def test_what_contradicts_is_refused(changes: dict[str, Any], said: str) -> None:
    plain = {"question": "?", "axis": ["model.norm"], "baseline": "a", "arms": {"a": [], "b": []}}
    with pytest.raises(StudyError, match=said):
        parse_study({**plain, **changes})


# ------------------------------------------------------------------------------------ whole studies


class ByRounds(Simulation):
    """Studies that are tuned by rounds; `tuning_runs` and `regret` are those of the last one, by arm."""

    refused = 0  # studies in which an arm found no best rate within the budget

    def study(self) -> pd.DataFrame:
        self.best = 10 ** self.rng.uniform(np.log10(GRID[1]), np.log10(GRID[3]))
        arms, seen = list(self.arms), self.test({}, role="tuning")
        while True:
            tuning, wanted = tune_by_rounds(seen, SEARCH, arms, VALIDATION)
            there = {*zip(seen["arm"], seen["rate"], seen["seed"], strict=True)}
            new = [run for run in wanted if tuple(run) not in there]
            if not new:
                break
            names, rates, seeds = zip(*new, strict=True)
            runs = self.runs(list(names), np.array(rates), np.array(seeds), "tuning")
            seen = pd.concat([seen, runs], ignore_index=True) if len(seen) else runs
        if any(choice.kind == "edge" for choice in tuning.choices):  # a person would give another grid
            self.refused += 1
            return self.study()
        self.tuning_runs = seen["arm"].value_counts().to_dict()
        base = tuning.choice("base")
        rates_of = {c.arm: c.rates(False) or base.rates(False) or (GRID[2],) for c in tuning.choices}
        self.regret = {arm: min(map(self.lost, rates)) for arm, rates in rates_of.items()}
        self.test_rates = sum(map(len, rates_of.values())) / len(rates_of)
        return keep_better(self.test(rates_of), VALIDATION)[0]

    def test(self, rates: dict[str, tuple[float, ...]], role: str = "test") -> pd.DataFrame:
        if not rates:
            return pd.DataFrame(columns=["arm", "seed", "status", "role", "rate", VALIDATION, HELDOUT])
        return super().test(rates)

    def lost(self, rate: float) -> float:
        """What a run at this rate loses against the best one, in the mean."""
        if not self.cliff:
            return self.off * float(np.log10(rate / self.best) / 0.5) ** 2
        return float(mean_loss(np.array([rate]))[0]) - min(MEANS.values())


class ByGrid(Simulation):
    """As before: the whole grid for every arm, with both seeds."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{**named, "tuning": "vertex"})

    def test(self, rates: dict[str, tuple[float, ...]]) -> pd.DataFrame:
        self.regret = {arm: min(ByRounds.lost(self, rate) for rate in of) for arm, of in rates.items()}
        self.test_rates = sum(map(len, rates.values())) / len(rates)
        return super().test(rates)

    def tuned(self, grid: tuple[float, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
        more = len(grid) * len(seeds)
        here = self.tuning_runs if grid != GRID else dict.fromkeys(self.arms, 0)
        self.tuning_runs = {arm: n + more for arm, n in here.items()}
        return super().tuned(grid, seeds)


def measured(simulation: Any, studies: int) -> dict[str, float]:
    """Over whole studies: the share that decides anything, the regret of the baseline and of the other arms
    in nats, tuning runs of each, and how many rates an arm is tested at."""
    rows = []
    for _ in range(studies):
        comparison = compare(simulation.study(), "base", HELDOUT, 0.02, "paired")
        others = [arm for arm in simulation.arms if arm != "base"]
        rows.append(
            {
                "decided": decides(comparison),
                "worse": np.mean([(comparison.verdict(arm).difference or 0) > 0 for arm in others]),
                "regret": simulation.regret["base"],
                "regret of others": np.mean([simulation.regret[arm] for arm in others]),
                "runs": simulation.tuning_runs["base"],
                "runs of others": np.mean([simulation.tuning_runs[arm] for arm in others]),
                "rates": simulation.test_rates,
            }
        )
    return pd.DataFrame(rows).astype(float).mean().to_dict()


def test_equal_arms_are_tuned_alike_and_hardly_ever_decided() -> None:
    studies = 30
    found = measured(ByRounds(), studies)
    assert found["decided"] <= at_most(0.06, studies)
    assert found["runs of others"] < 9 and found["regret of others"] < 0.15 * RUN


def test_beside_a_cliff_equal_arms_are_hardly_ever_decided() -> None:
    studies = 15
    assert measured(ByRounds(cliff=0.01), studies)["decided"] <= at_most(0.06, studies)


@pytest.mark.slow
@pytest.mark.parametrize("costs", [1, 2, 4, 8, 16])
def test_over_many_studies_rounds_keep_the_level_and_favour_no_arm(costs: int) -> None:
    studies = 2000
    found = measured(ByRounds(off=costs * RUN), studies)
    grid = measured(ByGrid(off=costs * RUN), studies // 4)
    assert found["decided"] <= at_most(0.06, studies)
    assert abs(found["worse"] - 0.5) < 0.04  # the baseline, which has the grid, is not the better tuned
    assert found["regret of others"] <= grid["regret of others"] + 0.05 * RUN
    assert found["runs of others"] < grid["runs of others"]


@pytest.mark.slow
@pytest.mark.parametrize("cliff", CLIFFS)
def test_over_many_studies_beside_a_cliff_rounds_keep_the_level(cliff: float) -> None:
    studies = 600
    assert measured(ByRounds(cliff=cliff), studies)["decided"] <= at_most(0.06, studies)


def report(studies: int) -> None:
    """Print errors, regret and runs, by the whole grid (before) and by rounds (after)."""
    places = [{"off": costs * RUN} for costs in (1, 2, 4, 8, 16)] + [{"cliff": cliff} for cliff in CLIFFS]
    for place in places:
        for how, kind in (("grid", ByGrid), ("rounds", ByRounds)):
            few = studies if "off" in place else studies // 3
            simulation = kind(**place)
            found, refused = measured(simulation, few), getattr(simulation, "refused", 0)
            where = ", ".join(f"{name} {value:.4g}" for name, value in place.items())
            error = (found["decided"] * (1 - found["decided"]) / few) ** 0.5
            print(
                f"{where:12} {how:7} decided {100 * found['decided']:5.2f} % +- {100 * error:.2f}   "
                f"worse {100 * found['worse']:4.1f} %   regret in sd of a run {found['regret'] / RUN:.3f} "
                f"{found['regret of others'] / RUN:.3f}   runs {found['runs']:.1f} "
                f"{found['runs of others']:.1f}   rates {found['rates']:.2f}   refused {refused}",
                flush=True,
            )


if __name__ == "__main__":
    report(int(sys.argv[1]))
