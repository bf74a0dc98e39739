"""Main effects, interactions and the one-at-a-time readings of a factorial."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.study.stats.factorial import Factorial, factorial, one_at_a_time

METRIC = "heldout/loss"
FACTORS = {"norm": ("layer", "rms"), "ffn": ("relu", "swiglu"), "position": ("learned", "rope", "alibi")}


def study(
    effects: dict[tuple[str, ...], float], sd: float = 0.001, seeds: int = 4, factors: Any = FACTORS
) -> pd.DataFrame:
    """Every cell at every seed; an effect acts where all of its levels are set."""
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.5, seeds)
    rows = []
    for cell in product(*factors.values()):
        effect = sum(size for levels, size in effects.items() if set(levels) <= set(cell))
        for seed in range(seeds):
            loss = 3 + effect + block[seed] + rng.normal(0, sd)
            rows.append(
                {**dict(zip(factors, cell, strict=True)), "seed": seed, "status": "finished", METRIC: loss}
            )
    return pd.DataFrame(rows)


def effect(found: Factorial, *levels: str) -> Any:
    return next(e for e in found.effects if e.levels == levels)


def test_planted_effects_are_read_back() -> None:
    data = study({("rms",): -0.1, ("rope",): -0.2, ("swiglu", "rope"): -0.04})
    found = factorial(data, FACTORS, METRIC)
    assert len(found.effects) == 4 + 1 + 2 + 2 + 2
    for levels, truth in [
        (("rms",), -0.1),
        (("rope",), -0.2 - 0.04 / 2),  # over both kinds of ffn
        (("swiglu",), -0.04 / 3),  # over the three positions
        (("alibi",), 0.0),
        (("swiglu", "rope"), -0.04),
        (("rms", "rope"), 0.0),
    ]:
        one = effect(found, *levels)
        assert one.low <= truth <= one.high and one.high - one.low < 0.01, levels
    assert found.noise == pytest.approx(0.001, rel=0.3)


def test_the_fit_agrees_with_plain_means_where_all_is_balanced() -> None:
    data = study({("rms",): -0.1}, sd=0.05)
    means = data.groupby("norm")[METRIC].mean()
    assert effect(factorial(data, FACTORS, METRIC), "rms").difference == pytest.approx(
        means["rms"] - means["layer"]
    )


def test_one_factor_of_two_levels_is_the_paired_t_test() -> None:
    data = study({("rms",): -0.1}, sd=0.05, seeds=6, factors={"norm": ("layer", "rms")})
    wide = data.pivot(index="seed", columns="norm", values=METRIC)
    interval = stats.ttest_rel(wide["rms"], wide["layer"]).confidence_interval(0.95)
    (one,) = factorial(data, {"norm": ("layer", "rms")}, METRIC).effects
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))


def test_intervals_hold_together_over_null_factorials() -> None:
    factors = {"a": ("0", "1"), "b": ("2", "3")}
    studies, wrong = 100, 0
    rng = np.random.default_rng(1)
    data = study({}, factors=factors)
    for _ in range(studies):
        noisy = data.assign(**{METRIC: rng.normal(0, 1, len(data))})
        wrong += any(e.low > 0 or e.high < 0 for e in factorial(noisy, factors, METRIC).effects)
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


def test_the_table_names_every_effect() -> None:
    table = factorial(study({}), FACTORS, METRIC).table()
    assert table["effect"].tolist()[:2] == ["norm", "ffn"]
    assert "relu -> swiglu x learned -> rope" in table["change"].tolist()
    assert "rms x swiglu x alibi" in [
        " x ".join(e.levels) for e in factorial(study({}), FACTORS, METRIC).effects
    ]
    assert list(table.columns)[:3] == ["effect", "change", "within"]


THREE = {"a": ("a0", "a1"), "b": ("b0", "b1"), "c": ("c0", "c1")}


def test_a_third_order_interaction_is_found_and_does_not_widen_the_rest() -> None:
    data = study({("a1", "b1", "c1"): 0.2}, sd=0.01, seeds=6, factors=THREE)
    found = factorial(data, THREE, METRIC)
    third = effect(found, "a1", "b1", "c1")
    assert third.low < 0.2 < third.high and third.low > 0.1
    assert found.noise == pytest.approx(0.01, rel=0.4)
    assert effect(found, "a1").high - effect(found, "a1").low < 0.05


def test_a_main_effect_that_describes_no_cell_is_flagged() -> None:
    data = study({("a1",): -0.03, ("b1",): -0.5, ("a1", "b1", "c1"): 0.2}, factors=THREE)
    found = factorial(data, THREE, METRIC)
    main = effect(found, "a1")
    assert (
        main.difference > 0 and main.in_every_cell is False
    )  # worse on average, better in three of four cells
    assert effect(found, "b1").in_every_cell is True
    cells = [e.difference for e in found.simple if e.levels == ("a1",)]
    assert cells == pytest.approx([-0.03, -0.03, -0.03, 0.17], abs=0.01)


def test_effects_are_contrasts_by_seed_where_the_study_is_paired() -> None:
    data = study({("a1",): -0.1}, sd=0.05, seeds=6, factors=THREE)
    means = data.groupby(["seed", "a"])[METRIC].mean().unstack()
    interval = stats.ttest_rel(means["a1"], means["a0"]).confidence_interval(1 - 0.05 / 7)
    one = effect(factorial(data, THREE, METRIC), "a1")
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))


def test_pooled_effects_are_those_of_the_saturated_model() -> None:
    import statsmodels.formula.api as smf

    data = study({("a1",): -0.1, ("b1", "c1"): 0.2}, sd=0.05, seeds=5, factors=THREE)
    fit = smf.ols("y ~ C(a, Sum) * C(b, Sum) * C(c, Sum) + C(seed)", data.rename(columns={METRIC: "y"})).fit()
    found = factorial(data, THREE, METRIC, variance="pooled")
    assert found.noise == pytest.approx(float(np.sqrt(fit.scale)))
    assert effect(found, "a1").difference == pytest.approx(-2 * fit.params["C(a, Sum)[S.a0]"])
    assert effect(found, "a1").p == pytest.approx(fit.pvalues["C(a, Sum)[S.a0]"], rel=1e-5)


def test_an_arm_of_its_own_noise_does_not_widen_what_it_is_not_in() -> None:
    """Unequal noise of cells: contrasts by seed keep the level."""
    rng = np.random.default_rng(2)
    data = study({}, factors=THREE, seeds=6)
    noisy = np.where(data["a"] == "a1", 1.0, 0.1)
    studies = 60
    wrong = 0
    for _ in range(studies):
        drawn = data.assign(**{METRIC: rng.normal(0, 1, len(data)) * noisy})
        wrong += any(e.low > 0 or e.high < 0 for e in factorial(drawn, THREE, METRIC).effects)
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


def test_a_missing_run_waits_and_a_failed_one_is_conditional() -> None:
    data = study({("rms",): -0.1})
    crashed = data.assign(status=["crashed", *data["status"][1:]])
    found = factorial(crashed, FACTORS, METRIC)
    assert not found.effects and found.waiting == ("norm=layer, ffn=relu, position=learned, seed 0",)
    assert factorial(data.iloc[1:], FACTORS, METRIC).waiting == found.waiting
    diverged = data.assign(status=["diverged", *data["status"][1:]])
    partly = factorial(diverged, FACTORS, METRIC)
    assert partly.conditional and partly.runs == len(data) - 1
    pooled = factorial(diverged, FACTORS, METRIC, variance="pooled")
    assert effect(pooled, "rms").difference == pytest.approx(-0.1, abs=0.005)
    assert effect(partly, "rms").difference == pytest.approx(-0.1, abs=0.005)


def test_what_cannot_be_fitted_is_refused() -> None:
    data = study({})
    with pytest.raises(ValueError, match="duplicated record: norm=layer, ffn=relu, position=learned, seed 0"):
        factorial(pd.concat([data, data.iloc[:1]]), FACTORS, METRIC)
    with pytest.raises(ValueError, match="unknown level alibi"):
        factorial(data, {**FACTORS, "position": ("learned", "rope")}, METRIC)
    with pytest.raises(ValueError, match="two levels or more"):
        factorial(data, {"norm": ("layer",)}, METRIC)
    cell = (data["norm"] == "rms") & (data["ffn"] == "relu") & (data["position"] == "rope")
    with pytest.raises(ValueError, match="no run finished in the cell norm=rms, ffn=relu, position=rope"):
        factorial(data.assign(status=np.where(cell, "diverged", "finished")), FACTORS, METRIC)


def test_added_alone_and_left_out_differ_by_the_interaction() -> None:
    data = study({("rms",): -0.1, ("rope",): -0.2, ("rms", "rope"): 0.06})
    start = {"norm": "layer", "ffn": "relu", "position": "learned"}
    end = {"norm": "rms", "ffn": "swiglu", "position": "rope"}
    found: dict[str, Any] = {one.factor: one for one in one_at_a_time(data, start, end, METRIC)}
    assert found["norm"].added.difference == pytest.approx(-0.1, abs=0.005)
    assert found["norm"].left_out.difference == pytest.approx(-0.04, abs=0.005)
    assert found["ffn"].added.low < 0 < found["ffn"].added.high
    wide = data[(data["ffn"] == "relu") & (data["position"] == "learned")].pivot(
        index="seed", columns="norm", values=METRIC
    )
    interval = stats.ttest_rel(wide["rms"], wide["layer"]).confidence_interval(1 - 0.05 / 6)
    assert (found["norm"].added.low, found["norm"].added.high) == pytest.approx((interval.low, interval.high))


def test_one_at_a_time_needs_only_its_own_arms() -> None:
    data = study({("rms",): -0.1})
    start = {"norm": "layer", "ffn": "relu", "position": "learned"}
    end = {"norm": "rms", "ffn": "swiglu", "position": "rope"}
    kept = data[(data[list(start)] == pd.Series(start)).all(axis=1) | (data["norm"] == "rms")]
    found = {one.factor: one for one in one_at_a_time(kept, start, end, METRIC)}
    assert found["norm"].added is not None and found["norm"].left_out is None
    with pytest.raises(ValueError, match="differ in one or more"):
        one_at_a_time(data, start, start, METRIC)
