"""Whole campaigns are simulated: how often a change that is no gain is kept, and what finding gains costs.

The rule is that of `ablate.campaign.referee`, for many campaigns at once; one test holds the two against each
other. Beside it stands the greedy rule, on the same draws: keep what looks better than the best so far.

python tests/study/test_campaign_simulation.py 1000     prints the table that docs/campaigns.md quotes
"""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from ablate.campaign.journal import BaselineEntry, CampaignState, TryEntry
from ablate.campaign.referee import decide, threshold_now
from ablate.campaign.rules import Campaign
from ablate.study.stats.evalues import Noise, is_futile, log_e_value, log_threshold

TRIES, SEEDS, ALPHA = 200, 8, 0.05
BASELINES = 64  # draws for the baselines that keeps bring
SD = 2**0.5  # of a difference: runs have 1
FIELDS = ("weights", "moments", "squares", "df")


@dataclass
class Draws:
    """Runs with noise 1: `arms` (campaigns, tries, seeds), `bases` (campaigns, baselines, seeds); and `gains`
    (campaigns, tries), by how much each change truly is better."""

    arms: NDArray[np.float64]
    bases: NDArray[np.float64]
    gains: NDArray[np.float64]


@dataclass
class Outcome:
    """What was kept (campaigns, tries), and the runs of each campaign."""

    kept: NDArray[np.bool_]
    runs: NDArray[np.float64]

    def false(self, draws: Draws) -> NDArray[np.bool_]:
        return self.kept & (draws.gains <= 0)

    def any_false(self, draws: Draws) -> float:
        return float(self.false(draws).any(1).mean())

    def false_share(self, draws: Draws) -> float:
        return float((self.false(draws).sum(1) / np.maximum(1, self.kept.sum(1))).mean())

    def found(self, draws: Draws) -> float:
        return float((self.kept & (draws.gains > 0)).sum() / max(1, (draws.gains > 0).sum()))


def drawn(
    campaigns: int, share: float = 0.0, effect: float = 0.0, tries: int = TRIES, noisy: float = 0.0
) -> Draws:
    """A `share` of the changes are gains of `effect` standard deviations of a difference; a share `noisy` of
    all changes has runs with twice the noise."""
    random = np.random.default_rng(1)
    arms = random.normal(size=(campaigns, tries, SEEDS))
    arms *= np.where(random.random((campaigns, tries, 1)) < noisy, 2.0, 1.0)
    gains = np.where(random.random((campaigns, tries)) < share, effect * SD, 0.0)
    return Draws(arms, random.normal(size=(campaigns, BASELINES, SEEDS)), gains)


def part(noise: Noise, at: NDArray[np.intp]) -> Noise:
    return Noise(*(getattr(noise, name)[at] for name in FIELDS))


def referee(draws: Draws, margin: float, miss: float = 0.1, pooled: bool = True) -> Outcome:
    """All campaigns through the rule, try by try. `margin` is in standard deviations of a difference."""
    campaigns, tries, _ = draws.arms.shape
    zeros = np.zeros(campaigns)
    noise, here, here_df, before, before_df = (
        Noise.empty(SEEDS, (campaigns,)),
        *(zeros.copy() for _ in range(4)),
    )
    baseline, measured, runs = zeros.astype(int), zeros.astype(int), zeros.copy()
    kept = np.zeros((campaigns, tries), dtype=bool)
    for t in range(tries):
        base = draws.bases[np.arange(campaigns), baseline]
        x = base - (draws.arms[:, t] - draws.gains[:, t, None])
        total, squares = x.cumsum(1), (x**2).cumsum(1)
        threshold = log_threshold(ALPHA, tries, baseline)
        n, going = zeros.astype(int), np.arange(campaigns)
        for k in range(1, SEEDS + 1):
            n[going] = k
            known = (before + here)[going], (before_df + here_df)[going]
            pairs = k, total[going, k - 1], squares[going, k - 1], 2 * known[0], known[1]
            won = log_e_value(*pairs) >= threshold[going] if k > 1 else np.zeros(len(going), dtype=bool)
            kept[going[won], t] = True
            going = going[~won & ~is_futile(*pairs, margin * SD, miss)]
        runs += n + np.maximum(n - measured, 0)
        measured = np.maximum(measured, n)
        many = np.flatnonzero(n > 1) if pooled else np.array([], dtype=int)
        with_arm = part(noise, many).with_arm(draws.arms[many, t], n[many])
        for name in FIELDS:
            getattr(noise, name)[many] = getattr(with_arm, name)
        here[many], here_df[many] = with_arm.with_arm(base[many], measured[many]).residual()
        won = np.flatnonzero(kept[:, t])
        before[won], before_df[won] = before[won] + here[won], before_df[won] + here_df[won]
        for array in (here, here_df, measured, *(getattr(noise, name) for name in FIELDS)):
            array[won] = 0
        baseline[won] += 1
    return Outcome(kept, runs)


def greedy(draws: Draws, seeds: int = 1) -> Outcome:
    """Keep what has a better mean of so many runs than the best so far, whose runs stay as they were."""
    campaigns, tries, _ = draws.arms.shape
    best, gained = draws.bases[:, 0, :seeds].mean(1), np.zeros(campaigns)
    kept = np.zeros((campaigns, tries), dtype=bool)
    for t in range(tries):
        value = draws.arms[:, t, :seeds].mean(1) - gained - draws.gains[:, t]
        kept[:, t] = value < best
        best = np.minimum(best, value)
        gained += np.where(kept[:, t], draws.gains[:, t], 0.0)
    return Outcome(kept, np.full(campaigns, float(seeds * (tries + 1))))


def most(promised: float, campaigns: int) -> float:
    """Three standard errors above what is promised."""
    return promised + 3 * (promised * (1 - promised) / campaigns) ** 0.5


def test_without_gains_a_campaign_keeps_nothing_where_the_greedy_rule_nearly_always_does() -> None:
    draws = drawn(60)
    assert referee(draws, 3.0).any_false(draws) <= most(ALPHA, 60)
    assert greedy(draws).any_false(draws) > 0.9


def test_gains_are_found_at_about_the_cost_of_one_run_a_try() -> None:
    draws = drawn(40, share=0.02, effect=3.0)
    found, cheap = referee(draws, 3.0), greedy(draws)
    assert found.found(draws) > 0.8
    assert found.runs.mean() <= 1.5 * cheap.runs.mean()
    assert found.false_share(draws) <= 0.05 < cheap.false_share(draws)


def test_the_referee_decides_as_the_simulation_does() -> None:
    """One campaign through the journal's own rule, and the same through the simulation."""
    draws = drawn(1, share=0.3, effect=4.0, tries=30)
    rules = Campaign.model_validate(
        {"question": "q", "base": [], "margin": 3 * SD, "tries": 30, "seeds": SEEDS, "alpha": ALPHA}
    )
    state = CampaignState(rules)
    state.take(BaselineEntry(baseline=0, overrides=(), identity="b"))
    kept, gained = [], 0.0
    for t in range(30):
        entry = TryEntry(
            number=t + 1, baseline=state.keeps, identity=str(t), change=(), word="begun",
            log_threshold=threshold_now(state),
        )  # fmt: skip
        values: dict[int, float] = {}
        for seed in range(SEEDS):
            base = state.baseline.values | {seed: draws.bases[0, state.keeps, seed] - gained}
            state.take(state.baseline.model_copy(update={"values": base}))
            values[seed] = draws.arms[0, t, seed] - gained - draws.gains[0, t]
            decision = decide(state, entry, values)
            if decision.word != "undecided":
                break
        assert decision.word in ("keep", "discard") or (decision.more or 0) > 0
        state.take(entry.model_copy(update={"word": decision.word, "values": values}))
        if decision.word == "keep":
            kept.append(t)
            gained += draws.gains[0, t]
    simulated = referee(draws, 3.0)
    assert kept == np.flatnonzero(simulated.kept[0]).tolist() and len(kept) > 2
    assert state.runs == simulated.runs[0]


@pytest.mark.slow
def test_a_thousand_campaigns_of_two_hundred_null_changes() -> None:
    draws = drawn(1000)
    assert referee(draws, 3.0).any_false(draws) <= 0.05
    assert referee(draws, 2.0).any_false(draws) <= 0.05
    assert greedy(draws).any_false(draws) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("effect", [3.0, 4.0])
def test_planted_gains_cost_at_most_half_as_much_again_as_the_greedy_rule(effect: float) -> None:
    draws = drawn(300, share=0.02, effect=effect)
    found, cheap = referee(draws, effect), greedy(draws)
    assert found.runs.mean() <= 1.5 * cheap.runs.mean()
    assert found.found(draws) >= 0.9
    assert found.false_share(draws) <= 0.05 < 0.5 < cheap.false_share(draws)


ROWS = (  # name, share and size of gains, share of noisy changes, margin, pooled
    ("nothing is a gain, margin 2", 0.0, 0.0, 0.0, 2.0, True),
    ("nothing is a gain, margin 3", 0.0, 0.0, 0.0, 3.0, True),
    ("nothing is a gain, one change in ten twice as noisy", 0.0, 0.0, 0.1, 3.0, True),
    ("nothing is a gain, every change twice as noisy", 0.0, 0.0, 1.0, 3.0, True),
    ("the same, noise: own", 0.0, 0.0, 1.0, 3.0, False),
    ("2 % are gains of 2", 0.02, 2.0, 0.0, 2.0, True),
    ("2 % are gains of 3", 0.02, 3.0, 0.0, 3.0, True),
    ("5 % are gains of 3", 0.05, 3.0, 0.0, 3.0, True),
    ("2 % are gains of 4", 0.02, 4.0, 0.0, 4.0, True),
    ("2 % are gains of 4, noise: own", 0.02, 4.0, 0.0, 4.0, False),
)


def table(campaigns: int) -> None:
    """Print one row for each setting."""
    for name, share, effect, noisy, margin, pooled in ROWS:
        draws = drawn(campaigns, share, effect, noisy=noisy)
        ours = referee(draws, margin, pooled=pooled)
        others = [greedy(draws, seeds) for seeds in (1, 3)]
        cells = [f"{ours.any_false(draws):.1%}", f"{ours.false_share(draws):.1%}", f"{ours.found(draws):.0%}"]
        cells += [f"{ours.runs.mean():.0f}"]
        for each in others:
            cells.append(
                f"{each.any_false(draws):.0%}, {each.false_share(draws):.0%}, {each.found(draws):.0%}, "
                f"{each.runs.mean():.0f}"
            )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    table(int(sys.argv[1]))
