"""Learning-rate sensitivity against its definition, written out."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from ablate.study.stats.sensitivity import sensitivity, sensitivity_difference

RATES, START = (1e-3, 3e-3, 1e-2, 3e-2), 5.5


def losses(seed: int, seeds: int = 4, slope: float = 0.3) -> dict[tuple[float, int], float | None]:
    draw = np.random.default_rng(seed)
    return {
        (rate, s): 3.0 + slope * n + 0.01 * float(draw.normal())
        for (n, rate), s in product(enumerate(RATES), range(seeds))
    }


def test_it_is_the_mean_over_rates_of_the_clipped_loss_above_the_best():
    runs = losses(0, seeds=1)
    runs[3e-2, 0] = 40.0  # above where it began
    runs[1e-2, 0] = None  # failed
    best = min(runs[1e-3, 0], runs[3e-3, 0])
    expected = sum(min(loss, START) - best for loss in (runs[1e-3, 0], runs[3e-3, 0], START, 40.0)) / 4
    found = sensitivity(runs, START)
    assert found.value == pytest.approx(expected)
    assert (found.best_rate, found.best_loss) == (1e-3, best)
    assert (found.failed, found.clipped) == (1, 2)
    assert found.low is None
    assert found.high is None


def test_seeds_are_averaged_before_the_best_is_taken():
    runs = losses(1)
    means = {rate: np.mean([runs[rate, s] for s in range(4)]) for rate in RATES}
    expected = np.mean([mean - min(means.values()) for mean in means.values()])
    assert sensitivity(runs, START).value == pytest.approx(expected)


def test_the_interval_is_that_of_resampled_seeds():
    runs = losses(2, seeds=6)
    runs[3e-2, 0] = runs[3e-2, 1] = None
    found = sensitivity(runs, START)
    draw = np.random.default_rng(1)
    table = np.array([[START if runs[r, s] is None else runs[r, s] for s in range(6)] for r in RATES])
    drawn = []
    for _ in range(3000):
        means = table[:, draw.integers(6, size=6)].mean(1)
        drawn.append((means - means.min()).mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    assert found.low < found.value < found.high
    assert sensitivity(runs, START) == found  # the draws are seeded


def test_a_difference_is_paired_by_seed():
    """Noise that both arms share leaves the difference exact."""
    first, second = losses(3, seeds=5, slope=0.3), losses(3, seeds=5, slope=0.1)
    found = sensitivity_difference(first, second, (START, START))
    assert found.value == pytest.approx(sensitivity(first, START).value - sensitivity(second, START).value)
    assert found.high - found.low < 1e-9
    assert found.low > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs: runs.pop((1e-2, 2)), "missing are rate 0.01 seed 2"),
        (lambda runs: runs.update({(1e-2, 2): float("nan")}), "not finite"),
        (lambda runs: [runs.pop(place) for place in list(runs) if place[0] > 1e-3], "two rates"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, said):
    runs = losses(4)
    change(runs)
    with pytest.raises(ValueError, match=said):
        sensitivity(runs, START)


def test_arms_on_other_rates_are_refused():
    with pytest.raises(ValueError, match="same rates"):
        sensitivity_difference(losses(0), losses(0, seeds=3), (START, START))


def test_it_loads_no_torch():
    script = "import sys, ablate.study.stats.sensitivity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
