"""The referee's answer to one try: keep, discard, or undecided. A function of the journal's numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.campaign.journal import CampaignState, TryEntry, Values, Word
from ablate.study.stats.evalues import Noise, is_futile, log_e_value, log_threshold

FARTHEST = 1000  # pairs; beyond it no number that would settle a try is named


@dataclass(frozen=True)
class Decision:
    """What the pairs of a try say. `difference` is arm - baseline; `more` is set where it is undecided."""

    word: Word
    reason: str
    pairs: int
    difference: float | None
    log_e: float
    log_threshold: float
    more: int | None = None


def decide(state: CampaignState, entry: TryEntry, values: Values) -> Decision:
    """Judge a try by its `values` and those of its baseline. Pairs are the first seeds that both have."""
    rules, baseline = state.rules, state.baselines[entry.baseline]
    seeds = sorted(values.keys() & baseline.values.keys())
    gains = rules.sign * np.array([baseline.values[seed] - values[seed] for seed in seeds], dtype=float)
    n, threshold = len(gains), entry.log_threshold
    if n == 0:
        return Decision("undecided", "no pair has been run", 0, None, 0.0, threshold, 1)
    noise, df = earlier_noise(state, entry) if rules.noise == "pooled" else (0.0, 0)
    total, squares = float(gains.sum()), float((gains**2).sum())
    difference = -rules.sign * total / n

    def word(pairs: int, total: float, squares: float) -> tuple[Word, float]:
        log_e = float(log_e_value(pairs, total, squares, noise, df))
        if pairs > 1 and log_e >= threshold:
            return "keep", log_e
        futile = bool(is_futile(pairs, total, squares, noise, df, rules.margin, rules.miss))
        return ("discard" if futile else "undecided"), log_e

    found, log_e = word(n, total, squares)
    more = None
    if found == "undecided":
        scales = ((k, (n + k) / n) for k in range(1, FARTHEST + 1))
        more = next((k for k, s in scales if word(n + k, s * total, s * squares)[0] != "undecided"), None)
    return Decision(
        found, decision_in_words(found, log_e, threshold, more), n, difference, log_e, threshold, more
    )


def decision_in_words(word: Word, log_e: float, threshold: float, more: int | None) -> str:
    """Why a try is decided, or what would settle it."""
    evidence = f"e-value {np.exp(min(log_e, 700.0)):.3g}, {np.exp(threshold):.3g} is needed"
    if word == "keep":
        return evidence
    if word == "discard":
        return f"a gain of the margin is no longer likely ({evidence})"
    count = f"about {more}" if more is not None else f"more than {FARTHEST}"
    return f"{count} more runs would settle it ({evidence})"


def earlier_noise(state: CampaignState, entry: TryEntry) -> tuple[float, int]:
    """The squared residuals of differences in the tries before this one, and their degrees of freedom: summed
    over baselines, each with the arms that were run beside it."""
    total, df = 0.0, 0
    for baseline in state.baselines[: entry.baseline + 1]:
        seeds = sorted(baseline.values)
        before = [each for each in state.beside(baseline.baseline) if each.number < entry.number]
        arms = [each.values for each in before if len(each.values) > 1]
        if len(seeds) < 2 or not arms:
            continue
        noise = Noise.empty(len(seeds))
        for values in (*arms, baseline.values):
            noise = noise.with_arm(*_row(values, seeds))
        residual, degrees = noise.residual()
        total, df = total + 2 * float(residual), df + int(degrees)
    return total, df


def _row(values: Values, seeds: Sequence[int]) -> tuple[np.ndarray, int]:
    """The values of the first seeds, up to the first that is missing, and how many these are."""
    n = next((n for n, seed in enumerate(seeds) if seed not in values), len(seeds))
    row = np.zeros(len(seeds))
    row[:n] = [values[seed] for seed in seeds[:n]]
    return row, n


def threshold_now(state: CampaignState) -> float:
    """The logarithm of the e-value that the next try needs for a keep."""
    return float(log_threshold(state.rules.alpha, state.rules.tries, state.keeps))
