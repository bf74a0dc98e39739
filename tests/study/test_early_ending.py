"""Tuning runs that would end early, replayed on committed curves: what docs/statistics.md says of them.

python benchmarks/early.py     prints the whole tables
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from ablate.study.results import read_results

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import early
from early import ArmCurves, Rule, replay

MARGIN = 0.02  # of the studies whose curves are replayed
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


@pytest.fixture(scope="module")
def arms() -> list[ArmCurves]:
    return list(early.packed_arms().values())


def curved(best_at: dict[float, float]) -> ArmCurves:
    """An arm whose best rate moves over the run: share of the run -> the rate that is best there."""
    shares = np.array(sorted(best_at))
    return ArmCurves(
        "made",
        {
            (rate, 1000): (
                shares,
                np.array([2 - share + np.log2(rate / best_at[share]) ** 2 for share in shares]),
            )
            for rate in RATES
        },
    )


def test_the_rate_that_leads_and_its_neighbours_never_end() -> None:
    arm = curved({0.25: 4e-3, 1.0: 4e-3})
    assert arm.ended(Rule((0.25,))) == {1e-3: 0.25, 2e-3: 1, 4e-3: 1, 8e-3: 1, 1.6e-2: 0.25}
    assert arm.ended(Rule((0.25,), margin=4.5)) == dict.fromkeys(RATES, 1)
    assert arm.ended(Rule((0.25,), above=False)) == {1e-3: 0.25, 2e-3: 1, 4e-3: 1, 8e-3: 1, 1.6e-2: 1}
    found = replay(arm, Rule((0.25,)))
    assert found.saved == pytest.approx(2 * 0.75 / 5) and not found.bare
    assert found.chosen == pytest.approx(4e-3) and found.regret == pytest.approx(0)


def test_a_rate_that_leads_late_is_lost_unless_runs_may_return() -> None:
    arm = curved({0.25: 2e-3, 1.0: 8e-3})
    lost = replay(arm, Rule((0.25,)))
    assert lost.bare and lost.chosen == 4e-3 and lost.regret == pytest.approx(1)
    found = replay(arm, Rule((0.25,), returns=True))
    assert found.chosen == pytest.approx(8e-3) and found.regret == pytest.approx(0) and found.saved == 0
    halfway = replay(arm, Rule((0.25,), all_end=True))
    assert halfway.chosen == pytest.approx(2e-3) and halfway.regret == pytest.approx(4)


def test_every_packed_tuning_run_is_replayed(arms: list[ArmCurves]) -> None:
    assert [len(arm.curves) for arm in arms] == [12, 12, 12, 9]
    for arm in arms:
        assert all(shares[-1] == 1 and len(shares) == 20 for shares, _ in arm.curves.values())


def test_at_a_quarter_nothing_is_lost_on_committed_curves(arms: list[ArmCurves]) -> None:
    for rule in (Rule((0.25,), 0.1), Rule((0.25,), 0.2), Rule((0.25,), returns=True)):
        found = [replay(arm, rule) for arm in arms]
        assert not any(one.bare for one in found) and max(one.regret for one in found) < 1e-9
        assert 0.24 < np.mean([one.saved for one in found]) < 0.32


def test_a_narrow_margin_or_a_later_point_loses_rates(arms: list[ArmCurves]) -> None:
    for rule, regret in ((Rule((0.25,), 0.05), 0.25), (Rule((0.5,), 0.1), 1.0)):
        found = [replay(arm, rule) for arm in arms]
        assert any(one.bare for one in found) and max(one.regret for one in found) > regret * MARGIN


def test_half_a_run_chooses_too_low_a_rate_for_every_arm(arms: list[ArmCurves]) -> None:
    whole = Rule((1.0,), all_end=True)
    for point in (0.25, 0.5):
        found = [replay(arm, Rule((point,), all_end=True)) for arm in arms]
        assert all(one.chosen < replay(arm, whole).chosen for one, arm in zip(found, arms, strict=True))
        assert max(one.regret for one in found) > 0.75 * MARGIN


def test_at_most_a_sixth_to_a_fifth_of_a_study_could_be_saved() -> None:
    for study in early.ON_A_GRID:
        runs = read_results(early.EXPERIMENTS / study).runs
        for _, rows in runs.groupby("corpus"):
            found = early.most(rows)
            assert found.needed == 6 * found.arms or (study == "norm" and found.needed == 9 * found.arms)
            assert found.saved(0.25, found.tuning) < 0.38 and 0.11 < found.saved(0.25, found.whole) < 0.21


def test_no_plan_of_looks_brings_quickstart_to_the_target() -> None:
    two, three, _ = early.quickstart()
    assert two[1] < early.TARGET < three[1]
    assert two[2] > two[3] > 15  # standard deviations: what decides at two seeds decides nothing real


def test_looks_are_listed_once_and_end_at_the_last() -> None:
    looks = list(early.schedules(4, 8))
    assert looks == [(4,), (2, 4), (3, 4), (2, 3, 4)]


@pytest.mark.slow
def test_whole_tuning_runs_cannot_reach_the_target() -> None:
    rows = early.limits(read_results(early.EXPERIMENTS / "llama"), draws=60)
    ratio = {name: total for name, *_, total in rows}
    ended = "by rounds, all but six tuning runs an arm ended at 1/4"
    today = "today: tuning by rounds; best rates beside a failed one are shared"
    assert ratio[today] - ratio[ended] < 0.1
    assert min(ratio["no tuning at all"], ratio["no shared rates, six"]) > early.TARGET
    assert ratio["and every arm decided at three seeds"] > early.TARGET
    assert ratio["no shared rates, six, ended at 1/2"] < early.TARGET
