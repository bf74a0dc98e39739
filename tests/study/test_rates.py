"""Rates that the rules would not choose, runs on plateaus, and what claims lose by them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.study.design.claim import Claim
from ablate.study.judge.claims import NOT_TUNED, RATE_IN_DOUBT, Judgement, judge
from ablate.study.judge.compare import compare
from ablate.study.judge.rates import above_trigram, mark_plateaus, one_rate, rate_doubts
from ablate.study.stats.tuning import tune

LOSS = "validation/loss"
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LINES = {"unigram": 3.1, "bigram": 2.5, "trigram": 2.2}


def rows(arm: str, role: str, rates: Any, seeds: range, losses: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"{arm}{role}{rate}{seed}", "arm": arm, "seed": seed, "role": role, "rate": rate}
        | {"status": "finished", LOSS: loss + 0.01 * (seed % 2)}
        for rate, loss in zip(rates, losses, strict=True)
        for seed in seeds
    ]


def study(tested: float = 2.83e-3) -> pd.DataFrame:
    """Two arms; at 0.01 both tuning runs of `b` end on the plateau."""
    tuning = range(100, 102)
    table = rows("a", "tuning", GRID, tuning, (3.0, 2.7, 2.4, 2.2, 2.3))
    table += rows("b", "tuning", GRID, tuning, (3.0, 2.7, 2.4, 3.09, 3.09))
    table += rows("a", "test", [1.1e-2], range(4), [2.2]) + rows("b", "test", [tested], range(4), [2.4])
    return pd.DataFrame(table)


def test_an_arm_that_was_tested_beside_a_plateau_is_named() -> None:
    frame = study()
    tuning = tune(frame, level=3.04)
    doubts = rate_doubts(frame, tuning, nested=False)
    assert set(doubts) == {"b"} and doubts["b"].startswith(
        "tested at 0.00283, but the best rate 0.003 stands"
    )


def test_runs_at_the_loss_of_single_tokens_are_marked() -> None:
    frame = study().assign(**{LOSS: lambda runs: np.where(runs["seed"] == 3, 3.05, runs[LOSS])})
    marked = mark_plateaus(frame, LINES, None, of_loss=True)
    assert set(marked["seed"][marked["plateau"] & (marked["role"] == "test")]) == {3}
    assert "plateau" not in mark_plateaus(frame, {}, None, of_loss=True)
    by_tuning = mark_plateaus(frame, {}, tune(study(), level=3.0), of_loss=True)
    assert by_tuning["plateau"].any()


def test_a_baseline_above_the_trigram_is_warned_of() -> None:
    assert "when attention forms" in next(above_trigram(study(), "b", LINES))
    assert not [*above_trigram(study(), "a", {**LINES, "trigram": 2.3})]
    assert not [*above_trigram(study(), "b", {})]


def test_runs_at_the_rates_of_all_arms_keep_the_better_of_each_seed() -> None:
    more = pd.DataFrame(rows("b", "test", [1e-2], range(4), [2.3]))
    tuned = type("Tuned", (), {"nested": False, "better": "lower", "metric": LOSS})()
    kept = one_rate(pd.concat([study(), more], ignore_index=True), tuned)
    assert set(kept["rate"][(kept["role"] == "test") & (kept["arm"] == "b")]) == {1e-2}
    assert one_rate(study(), tuned).equals(study())


def judged(published: bool = True) -> Judgement:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "status": "finished", "role": "test", LOSS: loss + rng.normal(0, 0.01)}
            for arm, loss in {"a": 2.0, "b": 2.5}.items()
            for seed in range(6)
        ]
    )
    (judgement,) = judge([Claim(id="C", predicate="b < a")], compare(frame, "a", LOSS, 0.02, "paired"))
    return judgement


def test_a_published_claim_cannot_fail_by_rates_that_are_not_as_they_should_be() -> None:
    judgement = judged()
    assert judgement.word == "fail" and judgement.mark({}, tuned=True, published=True) == judgement
    untuned = judgement.mark({}, tuned=False, published=True)
    assert (untuned.word, untuned.marked) == ("undecided", f"undecided, {NOT_TUNED}")
    assert "the opposite holds" in untuned.reason
    own = judgement.mark({}, tuned=False, published=False)
    assert own.marked == f"fail, {NOT_TUNED}"
    assert judgement.mark({"b": "x"}, tuned=True, published=True).marks == (RATE_IN_DOUBT,)
    assert judgement.mark({"c": "x"}, tuned=True, published=True) == judgement


@pytest.mark.parametrize("truth", [0.0, -0.005])
def test_a_difference_within_the_margin_is_no_failure(truth: float) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "status": "finished",
                "role": "test",
                LOSS: loss + rng.normal(0, 0.005),
            }
            for arm, loss in {"a": 2.0, "b": 2.0 + truth}.items()
            for seed in range(8)
        ]
    )
    (judgement,) = judge([Claim(id="C", predicate="b < a")], compare(frame, "a", LOSS, 0.02, "paired"))
    assert judgement.word in ("no difference that matters", "pass")
