"""Sensitivities and failures read off the tuning runs of a study."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_fakes import RATES, study

from ablate.study.design.claim import Claim
from ablate.study.design.study import StudyError
from ablate.study.judge.claims import Judgement
from ablate.study.judge.counts import judge_counts
from ablate.study.judge.sensitivity_claims import (
    Sensitivities,
    failed_tuning,
    judge_sensitivity,
    sensitivities,
)
from ablate.study.stats.sensitivity import sensitivity, sensitivity_difference

GRID = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
START = 5.5
COSTS = {"pre": 0.1, "post": 0.4, "other": 0.1}  # nats at the ends of the grid


def frame(
    rng: np.random.Generator,
    costs: dict[str, float] = COSTS,
    seeds: int = 3,
    rates: list[float] = GRID,
    sd: float = 0.01,
    start: str | None = "curve/first_loss",
) -> pd.DataFrame:
    """Tuning runs: a parabola in log rate around 1e-2, as deep as the arm's cost."""
    rows = [
        {"arm": arm, "role": "tuning", "rate": rate, "seed": 1000 + s, "status": "finished"}
        | {"validation/loss": 3 + cost * np.log10(rate / 1e-2) ** 2 + rng.normal(0, sd)}
        | ({start: START + rng.normal(0, 0.001)} if start else {})
        for arm, cost in costs.items()
        for rate in rates
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def fail(data: pd.DataFrame, arm: str, above: float, status: str = "diverged") -> pd.DataFrame:
    lost = (data["arm"] == arm) & (data["rate"] > above)
    return data.assign(
        status=data["status"].where(~lost, status), **{"validation/loss": data["validation/loss"].mask(lost)}
    )


def losses(finished: pd.DataFrame, diverged: pd.DataFrame, arm: str) -> dict[tuple[float, int], float | None]:
    columns = ["rate", "seed", "validation/loss"]
    ended = finished.loc[finished["arm"] == arm, columns].itertuples(index=False)
    lost = diverged.loc[diverged["arm"] == arm, columns].itertuples(index=False)
    return {(r, s): loss for r, s, loss in ended} | {(r, s): None for r, s, _ in lost}


def read(data: pd.DataFrame, seeds: int = 3) -> Sensitivities:
    return sensitivities(data, "optim.lr", GRID, range(1000, 1000 + seeds))


def word(predicate: str, found: Sensitivities) -> Judgement:
    return judge_sensitivity([Claim(id="C", predicate=predicate, measure="tuning/sensitivity")], found)[0]


def counted(predicate: str, found: Sensitivities) -> Judgement:
    return judge_counts([Claim(id="C", predicate=predicate)], failed_tuning(found, "pre"))[0]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_each_arm_has_the_sensitivity_of_its_runs(rng: np.random.Generator) -> None:
    data = fail(frame(rng), "post", 0.05)
    found = read(data)
    post = found.arm("post")
    assert found.source == "curve/first_loss" and found.rates == tuple(GRID)
    start = data.loc[data["arm"] == "post", "curve/first_loss"].mean()
    lost = data["status"] == "diverged"
    assert post.start == pytest.approx(start)
    assert post.sensitivity == sensitivity(losses(data[~lost], data[lost], "post"), post.start)
    assert (post.diverged, post.runs, post.failed) == (3, 15, 3)
    assert post.sensitivity is not None and post.sensitivity.value > 0.5  # 2.5 nats at one of five rates
    with pytest.raises(KeyError, match="there are pre, post, other"):
        found.arm("rope")


def test_the_measured_start_goes_before_the_first_loss(rng: np.random.Generator) -> None:
    tests = pd.DataFrame(
        [{"arm": a, "role": "test", "seed": 0, "stability/start_loss": 6.0} for a in COSTS]
        + [{"arm": "pre", "role": "test", "seed": 1, "stability/start_loss": 7.0}]
    )
    data = frame(rng)
    both = pd.concat([data, tests])
    assert read(both).source == "stability/start_loss"
    assert (read(both).arm("pre").start, read(both).arm("post").start) == (6.5, 6.0)
    partly = pd.concat([data, tests.iloc[1:3]])  # one source for all arms: that which more have
    assert read(partly).source == "curve/first_loss"
    neither = read(frame(rng, start=None))
    assert neither.source == "" and all(arm.sensitivity is None for arm in neither.arms)
    assert "no run recorded its loss before training" in word("pre < post", neither).reason


def test_a_run_above_half_way_failed_though_it_finished(rng: np.random.Generator) -> None:
    data = frame(rng)
    stuck = (data["arm"] == "other") & (data["rate"] > 0.05)
    half = (START + 3) / 2
    found = read(data.assign(**{"validation/loss": data["validation/loss"].mask(stuck, half + 0.1)}))
    assert (found.arm("other").failed, found.arm("other").diverged, found.arm("pre").failed) == (3, 0, 0)
    found = read(data.assign(**{"validation/loss": data["validation/loss"].mask(stuck, half - 0.1)}))
    assert found.arm("other").failed == 0


def test_an_arm_that_trains_nowhere_failed_everywhere(rng: np.random.Generator) -> None:
    """The bar is the best of any arm's, not its own."""
    data = frame(rng)
    flat = data["arm"] == "post"
    found = read(data.assign(**{"validation/loss": data["validation/loss"].mask(flat, START - 0.2)}))
    post = found.arm("post")
    assert post.failed == post.runs == 15
    assert post.sensitivity is not None and post.sensitivity.value == 0  # and no rate is worse than another
    assert counted("pre < post", found).word == "pass"
    judged = word("post < pre", found)
    assert (judged.word, judged.reason) == ("undecided", "post trains at no rate")


def test_rates_that_were_added_count_where_every_arm_has_them(rng: np.random.Generator) -> None:
    wider = [*GRID, 0.2]
    data = frame(rng, rates=wider)
    assert read(data).rates == tuple(wider)
    lacking = data[~((data["arm"] == "post") & (data["rate"] == 0.2) & (data["seed"] == 1001))]
    assert read(lacking).rates == tuple(GRID)
    crashed = fail(data, "post", 0.15, "crashed")
    assert read(crashed).rates == tuple(GRID)
    assert read(fail(data, "post", 0.15)).rates == tuple(wider)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("crashed", "waiting for the tuning runs at 0.1 seed 1000"),
        (None, "waiting for the tuning runs at 0.1 seed 1000"),
        ("out_of_memory", "ran out of memory"),
    ],
)
def test_missing_runs_wait(rng: np.random.Generator, status: str | None, said: str) -> None:
    found = read(fail(frame(rng), "post", 0.05, status))  # type: ignore[arg-type]
    assert said in found.arm("post").reason and found.arm("post").sensitivity is None
    assert found.arm("pre").sensitivity is not None
    for judged in (word("pre < post", found), counted("pre < post", found)):
        assert judged.word == "undecided" and said in judged.reason
    assert word("pre ~ other within 0.1", found).word == "pass"


def test_planted_sensitivities_are_found(rng: np.random.Generator) -> None:
    found = read(frame(rng))
    assert word("pre < post", found).word == "pass"
    assert word("post < pre", found).word == "fail"
    assert word("pre ~ other within 0.1", found).word == "pass"
    assert word("pre < post - 0.05", found).word == "pass"
    judged = word("pre < post", found)
    truth = (0.1 - 0.4) * np.mean(np.log10(np.array(GRID) / 1e-2) ** 2)
    (contrast,) = judged.contrasts
    assert contrast.low is not None and contrast.high is not None
    assert contrast.low <= truth <= contrast.high and contrast.n == 3
    claims = [Claim(id=p, predicate=p) for p in ("pre < post", "post > pre", "pre < other")]
    assert {j.contrasts[0].alpha for j in judge_sensitivity(claims, found)} == {0.025}


def test_one_tuning_seed_decides_nothing(rng: np.random.Generator) -> None:
    judged = word("pre < post", read(frame(rng, seeds=1), seeds=1))
    assert judged.word == "undecided" and "one tuning seed" in judged.reason


@pytest.mark.parametrize("seeds", [2, 3, 6])
@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_equal_arms_are_seldom_told_apart(seeds: int, failing: float) -> None:
    """Also with few seeds, and where some runs fail: a bootstrap would decide a quarter of these at three."""
    rng = np.random.default_rng(seeds)
    studies, wrong = 100, 0
    equal = dict.fromkeys(("pre", "post"), 0.1)
    for _ in range(studies):
        data = frame(rng, equal, seeds, sd=0.02)
        lost = (data["rate"] == GRID[-1]) & (rng.random(len(data)) < failing)
        a, b = (losses(data[~lost], data[lost], arm) for arm in equal)
        between = sensitivity_difference(a, b, (START, START))
        assert between.low is not None and between.high is not None
        wrong += between.low > 0 or between.high < 0
    assert wrong <= stats.binom.ppf(0.999, studies, 0.06)


def test_failures_of_equal_arms_are_seldom_told_apart() -> None:
    """Failing depends on the rate, and on the seed: an unlucky one fails at several."""
    rng = np.random.default_rng(0)
    studies, wrong = 50, 0
    for _ in range(studies):
        data = frame(rng, {"pre": 0.1, "post": 0.1})
        limits = {place: 10 ** rng.normal(-1.5, 0.4) for place in data.groupby(["arm", "seed"]).groups}
        lost = [
            rate > limits[place]
            for rate, place in zip(data["rate"], zip(data["arm"], data["seed"], strict=True), strict=True)
        ]
        found = read(data.assign(status=data["status"].mask(pd.Series(lost), "diverged")))
        wrong += counted("pre < post", found).word in ("pass", "fail")
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


@pytest.mark.parametrize("measure", ["tuning/sensitivity", "tuning/failed"])
@pytest.mark.parametrize(
    "tune", ["fixed", {"optim.lr": RATES, "metric": "validation/accuracy", "better": "higher"}]
)
def test_a_study_without_tuned_losses_cannot_claim_on_them(measure: str, tune: Any) -> None:
    claim = {"id": "C09", "predicate": "rope < none", "measure": measure}
    with pytest.raises(StudyError, match=r"C09: .* is read off a whole grid for every arm"):
        study(claims=[claim], tune=tune)
    study(claims=[claim], tune={"optim.lr": RATES})
