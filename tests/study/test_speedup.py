"""Effective speed-ups: what they are on exact curves, and how often their intervals cover on simulated ones.

python tests/study/test_speedup.py 2000     prints the coverage that docs/statistics.md quotes
"""

import sys

import numpy as np
import pytest
from scipy import stats

from ablate.study.stats.speedup import speed_up

BUDGETS = np.array([0.25, 0.5, 1.0])
NOISE, SHARED, TIMES = 0.01, 0.015, 0.03  # sd of a run, of what a seed shares, of the log of seconds


def power_law(tokens: np.ndarray) -> np.ndarray:
    """A loss like those of `experiments/calibration`: 0.25 nats for the last doubling."""
    return 1.4 + 0.6 * np.asarray(tokens, dtype=float) ** -0.4


@pytest.mark.parametrize("true", [0.4, 0.8, 1.0, 1.3, 2.5])
def test_on_exact_curves_the_speed_up_is_that_of_the_curves(true: float) -> None:
    """The arm makes of every token what the baseline makes of `true` tokens."""
    seeds = np.arange(4)[:, None] * 1e-3
    found = speed_up(power_law(BUDGETS) + seeds, power_law(BUDGETS * true) + seeds, BUDGETS)
    assert found.multiple == pytest.approx(true, rel=0.02)
    time = speed_up(power_law(BUDGETS) + seeds, power_law(BUDGETS * true) + seeds, BUDGETS, cost=0.5)
    assert time.multiple == pytest.approx(true / 2, rel=0.02)


def test_better_at_equal_tokens_may_be_worse_at_equal_time() -> None:
    rng = np.random.default_rng(0)
    baseline, arm = (power_law(BUDGETS * m) + rng.normal(0, 1e-3, (5, 3)) for m in (1.0, 1.3))
    assert speed_up(baseline, arm, BUDGETS).word == "better"
    assert speed_up(baseline, arm, BUDGETS, cost=0.6).word == "worse"
    assert speed_up(baseline, baseline[::-1], BUDGETS).word == "undecided"


def test_what_the_budgets_do_not_reach_is_said() -> None:
    seeds = np.random.default_rng(0).normal(0, 1e-3, (4, 3))
    far = speed_up(power_law(BUDGETS) + seeds, power_law(BUDGETS * 9) + seeds[::-1], BUDGETS)
    assert far.multiple is None and far.reason.startswith("more than 4") and far.high is None
    flat = speed_up(np.ones((4, 3)) + seeds, np.ones((4, 3)) - seeds, BUDGETS)
    assert flat.word == "undecided" and "does not fall" in flat.reason
    with pytest.raises(ValueError, match="two seeds"):
        speed_up(np.ones((1, 3)), np.ones((1, 3)), BUDGETS)


def coverage(true: float, seeds: int, timed: bool, studies: int, generator: int = 0) -> float:
    """How often the interval holds the true speed-up, in tokens or in seconds at 0.8 of the speed."""
    rng, hits = np.random.default_rng(generator), 0
    for _ in range(studies):
        shared = rng.normal(0, SHARED, (seeds, 1))
        baseline = power_law(BUDGETS) + shared + rng.normal(0, NOISE, (seeds, 3))
        arm = power_law(BUDGETS * true) + shared + rng.normal(0, NOISE, (seeds, 3))
        cost = 0.8 * np.exp(rng.normal(0, TIMES, seeds)) if timed else 1.0
        found, truth = speed_up(baseline, arm, BUDGETS, cost), true * (0.8 if timed else 1.0)
        low = -np.inf if found.low is None else found.low
        high = np.inf if found.high is None else found.high
        hits += low <= truth <= high
    return hits / studies


def between(studies: int) -> tuple[float, float]:
    """93 to 97 %, and what chance adds in 999 of 1000 simulations."""
    return (
        float(stats.binom.ppf(0.001, studies, 0.93)) / studies,
        float(stats.binom.ppf(0.999, studies, 0.97)) / studies,
    )


@pytest.mark.parametrize("timed", [False, True])
def test_the_interval_covers(timed: bool) -> None:
    low, high = between(60)
    assert low <= coverage(1.3, 5, timed, 60) <= high


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("true", [0.6, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("timed", [False, True])
def test_the_interval_covers_over_many_studies(true: float, seeds: int, timed: bool) -> None:
    assert 0.93 <= coverage(true, seeds, timed, 3000) <= 0.97


if __name__ == "__main__":
    for timed in (False, True):
        for true in (0.6, 1.0, 1.3, 2.0):
            covers = [f"{100 * coverage(true, n, timed, int(sys.argv[1])):.1f} %" for n in (3, 5, 8)]
            print("seconds" if timed else "tokens ", true, *covers, flush=True)
