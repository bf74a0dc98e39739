"""Claims on counts: how many runs of an arm failed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_fakes import study

from ablate.study.design.claim import Claim
from ablate.study.design.study import StudyError
from ablate.study.judge.claims import Judgement
from ablate.study.judge.compare import Comparison, compare
from ablate.study.judge.counts import Counted, adjusted, failed, judge_counts
from ablate.study.stats.fisher import Count

METRIC = "heldout/loss"


def counted(alpha: float = 0.05, runs: int = 10, **hits: int) -> Counted:
    """The first arm is the baseline."""
    counts = {arm: Count(arm=arm, hits=n, runs=runs) for arm, n in hits.items()}
    baseline = next(iter(counts))
    return Counted(
        measure="stability/failed",
        baseline=baseline,
        counts=counts,
        adjusted=adjusted(counts, baseline),
        alpha=alpha,
    )


def said(predicate: str, found: Counted) -> Judgement:
    return judge_counts([Claim(id="C", predicate=predicate)], found)[0]


def test_clear_counts_are_decided_and_others_are_not() -> None:
    found = counted(pre=0, post=9, same=1)
    assert said("pre < post", found).word == "pass"
    assert said("post > pre", found).word == "pass"
    assert said("post < pre", found).word == "fail"
    assert said("pre < same", found).word == "undecided (sign as claimed)"
    assert said("same < pre", found).word == "undecided"
    assert said("same < post", found).word == "pass"
    assert said("pre < same < post", found).word == "undecided (sign as claimed)"  # as its weakest step
    judged = said("pre < post", found)
    assert "pre 0 of 10 against post 9 of 10" in judged.reason
    assert judged.contrasts[0].difference == pytest.approx(-0.9) and judged.contrasts[0].low is None


def test_p_is_fishers_and_holms_against_the_baseline() -> None:
    found = counted(pre=0, post=9, same=4)
    raw = [stats.fisher_exact([[n, 10 - n], [0, 10]]).pvalue for n in (9, 4)]
    assert said("pre < post", found).contrasts[0].p == pytest.approx(2 * raw[0])
    assert said("pre < same", found).contrasts[0].p == pytest.approx(raw[1])
    claims = [
        Claim(id="A", predicate="same < post"),
        Claim(id="B", predicate="same < 0.5"),
        Claim(id="C", predicate="pre < post"),
    ]
    first, second, third = (judged.contrasts[0] for judged in judge_counts(claims, found))
    assert first.p == pytest.approx(stats.fisher_exact([[4, 6], [9, 1]]).pvalue)
    assert (first.alpha, second.alpha, third.alpha) == (0.025, 0.025, 0.05)


def test_a_level_of_a_count_has_the_exact_interval() -> None:
    found = counted(pre=0, post=9)
    assert said("pre < 0.4", found).word == "pass"
    assert said("pre < 0.1", found).word == "undecided (sign as claimed)"
    assert said("post < 0.4", found).word == "fail"
    exact = stats.binomtest(9, 10).proportion_ci(0.95, method="exact")
    contrast = said("post < 0.4", found).contrasts[0]
    assert (contrast.low, contrast.high) == pytest.approx((exact.low, exact.high))


def test_null_claims_on_counts_seldom_decide() -> None:
    """Four claims at once, on arms that all fail with the same chance."""
    rng = np.random.default_rng(0)
    claims = [Claim(id=p, predicate=p) for p in ("a < b", "a < c", "b < c", "c < b")]
    studies, wrong = 50, 0
    for _ in range(studies):
        found = counted(**{arm: int(rng.binomial(10, 0.4)) for arm in "abc"})
        wrong += any(judged.word in ("pass", "fail") for judged in judge_counts(claims, found))
    assert wrong <= stats.binom.ppf(0.999, studies, 0.1)  # two families of 5 %


def comparison(diverged: dict[str, int], seeds: int = 8, **rest: Any) -> Comparison:
    rows = [
        {"arm": arm, "seed": seed, "role": "test", METRIC: 3 + seed / 100}
        | {"status": "diverged" if seed < n else rest.get(arm, "finished")}
        for arm, n in diverged.items()
        for seed in range(seeds)
    ]
    return compare(pd.DataFrame(rows), next(iter(diverged)), METRIC, None, "paired")


def test_failures_of_test_runs_agree_with_the_verdict_on_stability() -> None:
    found = comparison({"pre": 0, "none": 7, "other": 1})
    assert [v.stability.word for v in found.verdicts] == ["less stable", "undecided"]
    assert said("pre < none", failed(found)).word == "pass"
    assert said("pre < other", failed(found)).word == "undecided (sign as claimed)"
    assert said("none < pre", failed(found)).word == "fail"
    assert said("pre < none", failed(found)).contrasts[0].p == found.verdict("none").stability.p_adjusted


def test_failures_wait_for_missing_runs() -> None:
    found = failed(comparison({"pre": 0, "none": 7, "other": 0}, none="crashed"))
    assert said("pre < none", found).word == "undecided"
    assert "waiting for missing runs: none seeds 7" in said("pre < none", found).reason
    assert said("none < 0.9", found).word == "undecided"
    assert said("pre < other", found).word == "undecided"  # no failure anywhere
    memory = failed(comparison({"pre": 0, "none": 7}, none="out_of_memory"))
    assert memory.counts["none"].runs == 7  # a cost counts in neither


def test_an_arm_of_which_no_run_counts_has_no_share() -> None:
    rows = [{"arm": a, "seed": s, "role": "test", METRIC: 3.0 + s} for a in ("pre", "post") for s in range(3)]
    frame = pd.DataFrame(rows).assign(status=["finished"] * 3 + ["out_of_memory"] * 3)
    judged = said("pre < post", failed(compare(frame, "pre", METRIC, None, "paired")))
    assert (judged.word, judged.reason) == ("undecided", "no run of post finished or diverged")


def test_what_counts_do_not_allow_is_refused() -> None:
    found = counted(pre=0, post=9)
    with pytest.raises(ValueError, match="claim C: rope is no arm here"):
        said("rope < post", found)
    with pytest.raises(ValueError, match="counts are ordered"):
        said("pre ~ post within 1", found)
    for predicate, message in (
        ("rope ~ none within 0.1", "cannot be of the kind equivalent; allowed are ordered, level"),
        ("rope/none < 2", "cannot be of the kind ratio"),
        ("rope < none + 0.1", "counts have no offset"),
    ):
        claim = {"id": "C", "predicate": predicate, "measure": "stability/failed"}
        with pytest.raises(StudyError, match=message):
            study(claims=[claim])
    with pytest.raises(StudyError, match="stability/failed is a number of several runs"):
        study(metric="stability/failed")
