"""The judge: each verdict that the rules promise, on frames made for it."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.study.judge.compare import Comparison, Verdict, compare
from ablate.study.stats import intervals
from ablate.study.stats.describe import describe
from ablate.study.stats.documents import document_error
from ablate.study.stats.outcomes import read_outcomes
from ablate.study.stats.power import (
    Setting,
    detectable,
    power_of_equivalence,
    seeds_for_equivalence,
    seeds_for_half_width,
    warn_undetectable,
)
from ablate.study.stats.tokens import effect_in_tokens, token_slope

METRIC = "heldout/loss"


def frame(
    arms: dict[str, Any], status: dict[tuple[str, int], str | None] | None = None, **rest: Any
) -> pd.DataFrame:
    """A study with the values of each arm by seed: a list (seeds 0, 1, ...) or a mapping."""
    rows = []
    for arm, values in arms.items():
        for seed, value in values.items() if isinstance(values, dict) else enumerate(values):
            said = (status or {}).get((arm, seed), "finished")
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "status": said,
                    "role": "test",
                    METRIC: value if said == "finished" else None,
                }
            )
    return pd.DataFrame(rows).assign(**rest).astype({METRIC: float})


def noise(seeds: int = 6, sd: float = 0.01, generator: int = 0) -> np.ndarray:
    return np.random.default_rng(generator).normal(0, sd, seeds)


def study(effects: dict[str, float], seeds: int = 6, sd: float = 0.01) -> dict[str, Any]:
    arms = {"base": 3 + noise(seeds, sd, 99)}
    return arms | {a: 3 + effect + noise(seeds, sd, i) for i, (a, effect) in enumerate(effects.items())}


def judge(
    data: pd.DataFrame, margin: float | None = 0.05, variance: Any = "paired", **rest: Any
) -> Comparison:
    return compare(data, "base", METRIC, margin, variance, **rest)


VARIANCES = pytest.mark.parametrize("variance", ["paired", "pooled"])


@VARIANCES
def test_the_words(variance: str) -> None:
    arms = study({"good": -0.5, "bad": 0.5, "small": -0.06, "same": 0.0}, seeds=8)
    found = judge(frame(arms), margin=0.1, variance=variance)
    assert {v.arm: v.word for v in found.verdicts} == {
        "good": "better",
        "bad": "worse",
        "small": "better",
        "same": "equivalent",
    }
    assert [v.arm for v in found.verdicts if v.within_margin] == ["small"]
    assert not any(v.conditional for v in found.verdicts)
    wide = judge(frame(arms), margin=1e-3, variance=variance).verdict("same")
    assert wide.word == "undecided" and wide.seeds_needed is not None and wide.seeds_needed > 8


def test_higher_can_be_better() -> None:
    arms = study({"arm": 0.5})
    assert judge(frame(arms), better="higher").verdict("arm").word == "better"
    assert judge(frame(arms)).verdict("arm").word == "worse"


def test_without_a_margin_nothing_is_equivalent() -> None:
    found = judge(frame(study({"arm": 0.0})), margin=None).verdict("arm")
    assert found.word == "undecided" and found.seeds_needed is None


def test_paired_interval_is_students_at_bonferronis_level() -> None:
    arms = study({"a": 0.01, "b": 0.0, "c": 0.0})
    verdict = judge(frame(arms)).verdict("a")
    test = stats.ttest_rel(arms["a"], arms["base"])
    interval = test.confidence_interval(1 - 0.05 / 3)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.p == pytest.approx(test.pvalue)
    assert verdict.sd == pytest.approx(np.std(arms["a"] - arms["base"], ddof=1))
    assert verdict.correlation == pytest.approx(stats.pearsonr(arms["a"], arms["base"]).statistic)
    assert verdict.n == 6


@pytest.mark.parametrize(("arms", "n"), [(2, 4), (5, 9)])
def test_critical_value_is_scipys_dunnett(arms: int, n: int) -> None:
    """Without blocks the model has (arms + 1) (n - 1) degrees of freedom, and scipy judges it too."""
    rng = np.random.default_rng(3)
    control, *samples = rng.normal(size=(arms + 1, n))
    theirs = stats.dunnett(*samples, control=control, rng=np.random.default_rng(0)).confidence_interval(0.95)
    error = np.sqrt(np.mean([np.var(x, ddof=1) for x in (control, *samples)]) * 2 / n)
    ours = intervals.critical_value(intervals.balanced(arms), (arms + 1) * (n - 1), 0.05)
    assert (theirs.high - theirs.low) / 2 / error == pytest.approx(ours, rel=2e-3)


def test_pooled_is_the_blocked_model() -> None:
    """With every cell filled the blocked model's residuals are those of the two-way table."""
    arms = study({"a": 0.01, "b": -0.02})
    table = pd.DataFrame(arms)
    residuals = table.sub(table.mean(axis=1), axis=0).sub(table.mean() - table.to_numpy().mean())
    error = np.sqrt((residuals**2).to_numpy().sum() / 10 * 2 / 6)
    verdict = judge(frame(arms), variance="pooled").verdict("a")
    assert verdict.difference == pytest.approx(table["a"].mean() - table["base"].mean())
    half = error * intervals.critical_value(intervals.balanced(2), 10, 0.05)
    assert (verdict.low, verdict.high) == pytest.approx(
        (verdict.difference - half, verdict.difference + half)
    )


def test_one_arm_pooled_is_one_arm_paired() -> None:
    data = frame(study({"a": 0.01}))
    one, other = (judge(data, variance=variance).verdict("a") for variance in ("paired", "pooled"))
    assert (one.low, one.high, one.p) == pytest.approx((other.low, other.high, other.p))


def test_sign_flips_are_enumerated_and_joint() -> None:
    arms = study({"a": 0.5, "b": 0.4, "c": 0.0})
    found = judge(frame(arms))
    assert found.verdict("a").p_sign_flip == pytest.approx(2 / 64)  # the least there is with six seeds
    alone = judge(frame({arm: arms[arm] for arm in ("base", "c")})).verdict("c").p_sign_flip
    assert alone is not None and found.verdict("c").p_sign_flip >= alone  # type: ignore[operator]
    exact = stats.permutation_test(
        (arms["c"] - arms["base"],),
        lambda x, axis=-1: np.abs(x.mean(axis=axis)),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
    )
    assert alone == pytest.approx(exact.pvalue)


def test_many_seeds_draw_the_sign_flips() -> None:
    data = frame(study({"a": 0.0, "b": 0.0}, seeds=20))
    first, again = judge(data), judge(data)
    assert first == again
    assert 0 < first.verdict("a").p_sign_flip <= 1  # type: ignore[operator]


@VARIANCES
@pytest.mark.parametrize("said", ["crashed", "interrupted", None])
def test_a_missing_seed_waits(variance: str, said: str | None) -> None:
    data = frame(study({"a": 0.5, "b": 0.5}), {("a", 3): said})
    found = judge(data, variance=variance)
    waiting = found.verdict("a")
    assert waiting.word == "waiting" and "3" in waiting.reason and set(waiting.missing) == {3}
    assert waiting.difference is None and waiting.low is None and waiting.p is None
    assert found.verdict("b").word == "worse"


@VARIANCES
def test_an_arm_that_waits_keeps_its_place_in_the_family(variance: str) -> None:
    arms = study({"a": 0.02, "b": 0.0, "c": 0.0})
    whole = judge(frame(arms), variance="paired").verdict("a")
    partly = judge(frame(arms, {("c", 0): "crashed"}), variance="paired").verdict("a")
    assert (whole.low, whole.high) == (partly.low, partly.high)
    none = judge(frame({arm: arms[arm] for arm in ("base", "a", "b")}), variance=variance).verdict("a")
    kept = judge(frame(arms, {("c", 0): "crashed"}), variance=variance).verdict("a")
    assert kept.high - kept.low > none.high - none.low  # type: ignore[operator]


def test_an_absent_row_is_missing_too() -> None:
    data = frame(study({"a": 0.5, "b": 0.5}))
    found = judge(data.drop(index=data[(data["arm"] == "a") & (data["seed"] == 5)].index))
    assert found.verdict("a").word == "waiting" and found.verdict("a").missing == {5: "not run yet"}
    assert found.verdict("b").word == "worse"


def test_a_missing_baseline_makes_every_verdict_wait() -> None:
    found = judge(frame(study({"a": 0.5, "b": 0.5}), {("base", 2): "crashed"}))
    assert {v.word for v in found.verdicts} == {"waiting"}
    assert found.verdict("a").baseline_missing == {2: "crashed"}


def test_a_finished_run_without_the_metric_is_missing() -> None:
    arms = study({"a": 0.5})
    arms["a"][1] = np.nan
    assert judge(frame(arms)).verdict("a").missing == {1: f"finished without {METRIC}"}


def test_a_duplicated_record_is_refused() -> None:
    data = frame(study({"a": 0.0}))
    with pytest.raises(ValueError, match="duplicated record: arm 'a', seed 2, role 'test'"):
        judge(pd.concat([data, data[(data["arm"] == "a") & (data["seed"] == 2)]]))


@VARIANCES
def test_an_arm_that_fails_in_three_of_six_seeds(variance: str) -> None:
    data = frame(study({"a": 0.5, "b": 0.0}), {("a", seed): "diverged" for seed in (0, 2, 4)})
    verdict = judge(data, variance=variance).verdict("a")
    assert verdict.conditional and verdict.n == 3 and verdict.word == "worse"
    assert "diverged at seeds 0, 2, 4" in verdict.reason
    assert (verdict.stability.diverged, verdict.stability.runs) == (3, 6)
    assert verdict.stability.word == "undecided"
    assert verdict.stability.p == pytest.approx(stats.fisher_exact([[3, 3], [0, 6]]).pvalue)
    assert not judge(data, variance=variance).verdict("b").conditional


@VARIANCES
def test_an_arm_that_always_fails_is_less_stable_and_has_no_quality(variance: str) -> None:
    data = frame(study({"a": 0.0, "b": 0.0}), {("a", seed): "diverged" for seed in range(6)})
    found = judge(data, variance=variance)
    verdict = found.verdict("a")
    assert verdict.stability.word == "less stable" and verdict.stability.p_adjusted == pytest.approx(
        2 * 1 / 462
    )
    assert verdict.word == "undecided" and verdict.low is None and verdict.conditional
    assert found.verdict("b").low is not None and found.verdict("b").stability.word == "no failures"


def test_a_baseline_that_always_fails() -> None:
    data = frame(study({"a": 0.0}), {("base", seed): "diverged" for seed in range(6)})
    verdict = judge(data).verdict("a")
    assert verdict.stability.word == "more stable" and verdict.word == "undecided" and verdict.conditional


def test_out_of_memory_is_a_cost_and_no_instability() -> None:
    data = frame(study({"a": 0.0}), {("a", seed): "out_of_memory" for seed in range(6)})
    verdict = judge(data).verdict("a")
    assert verdict.word == "undecided" and verdict.conditional and "out of memory" in verdict.reason
    assert verdict.stability.runs == 0 and verdict.stability.word == "undecided"


def test_a_refused_arm_leaves_the_family() -> None:
    arms = study({"a": 0.02, "b": 0.0})
    found = judge(frame(arms, {("b", seed): "refused" for seed in range(6)}))
    assert found.refused == ("b",) and [v.arm for v in found.verdicts] == ["a"]
    alone = judge(frame({arm: arms[arm] for arm in ("base", "a")}))
    assert found.verdict("a").low == alone.verdict("a").low
    with pytest.raises(ValueError, match="every arm was refused"):
        judge(frame(arms, {(arm, seed): "refused" for arm in "ab" for seed in range(6)}))


@VARIANCES
def test_unpaired_seeds_fall_back_to_welch_and_say_so(variance: str) -> None:
    arms = study({"a": 0.5, "b": 0.0})
    data = frame(arms | {"a": {seed + 50: value for seed, value in enumerate(arms["a"])}})
    found = judge(data, variance=variance)
    verdict = found.verdict("a")
    theirs = stats.ttest_ind(arms["a"], arms["base"], equal_var=False).confidence_interval(1 - 0.05 / 2)
    assert verdict.method == "welch" and "Welch" in verdict.reason and verdict.word == "worse"
    assert (verdict.low, verdict.high) == pytest.approx((theirs.low, theirs.high))
    assert verdict.correlation is None and verdict.p_sign_flip is None
    assert found.verdict("b").method == variance and found.verdict("b").low is not None


def test_looks() -> None:
    arms = study({"a": 0.5}, seeds=18)

    def at(n: int) -> Comparison:
        return judge(frame({arm: values[:n] for arm, values in arms.items()}), looks=(6, 10, 16))

    assert at(5).verdict("a").reason == "waiting for the look at 6 seeds"
    assert at(8).verdict("a").reason == "waiting for the look at 10 seeds"
    assert at(8).verdict("a").word == "waiting" and at(8).verdict("a").difference is None
    assert at(8).verdict("a").stability.word == "waiting"
    assert [at(n).verdict("a").word for n in (6, 10, 16)] == ["worse"] * 3
    interval = stats.ttest_rel(arms["a"][:10], arms["base"][:10]).confidence_interval(1 - 0.05 / 3)
    assert at(10).verdict("a").low == pytest.approx(interval.low)
    assert at(18).seeds == tuple(range(16)) and at(18).verdict("a") == at(16).verdict("a")


def test_planned_rows_of_a_later_look_do_not_hold_up_this_one() -> None:
    data = frame(study({"a": 0.5}, seeds=10), {(arm, s): None for arm in ("a", "base") for s in range(6, 10)})
    assert judge(data, looks=(6, 10)).verdict("a").n == 6
    assert judge(data).verdict("a").word == "waiting"


def test_an_unplanned_arm_between_looks_does_not_slip_through_unpaired() -> None:
    data = frame({"base": 3 + noise(6), "a": {seed + 50: 3.5 + x for seed, x in enumerate(noise(4))}})
    assert judge(data, looks=(6,)).verdict("a").word == "waiting"
    assert judge(data).verdict("a").word == "worse"


def test_the_fixed_rate_contrast_reads_the_baselines_test_runs() -> None:
    arms = study({"a": 0.0})
    fixed = frame({"a": arms["a"] + 0.5}).assign(role="fixed")
    data = pd.concat([frame(arms), fixed])
    assert judge(data, role="fixed").verdict("a").word == "worse"
    assert judge(data).verdict("a").word == "equivalent"


def test_a_placebo_that_is_decided_is_a_warning() -> None:
    data = frame(study({"placebo": 0.5, "a": 0.0}))
    assert "distrust" in " ".join(judge(data, placebo="placebo").warnings)
    assert not judge(frame(study({"placebo": 0.0})), placebo="placebo").warnings


def test_a_metric_that_is_not_declared_exact_has_no_interval_without_width() -> None:
    for variance in ("paired", "pooled"):
        found = judge(frame({"base": [4.0] * 3, "a": [1.0] * 3, "b": [4.0] * 3}), variance=variance)
        assert [(verdict.word, verdict.low) for verdict in found.verdicts] == [("undecided", None)] * 2
        assert "not declared exact" in found.warnings[0] and "same at every seed" in found.verdict("a").reason


def test_runs_on_a_plateau_count_against_stability_and_keep_their_value() -> None:
    data = frame(study({"a": 0.0, "b": 0.0}, seeds=8))
    lost = (data["arm"] == "a") & (data["seed"] < 7)
    found = judge(data.assign(plateau=lost))
    assert (found.verdict("a").stability.diverged, found.verdict("a").stability.word) == (7, "less stable")
    assert found.verdict("b").stability.word == "no failures"
    assert found.verdict("a").low == judge(data).verdict("a").low


def test_pooled_warns_where_arms_are_not_equally_noisy() -> None:
    rng = np.random.default_rng(0)
    arms = {"base": rng.normal(3, 0.01, 10), "a": rng.normal(3, 0.01, 10), "b": rng.normal(3, 0.2, 10)}
    data = frame({arm: values.tolist() for arm, values in arms.items()})
    assert "not equally noisy (the differences of b" in judge(data, variance="pooled").warnings[0]
    assert not judge(data).warnings
    assert not judge(data[data["arm"] != "b"], variance="pooled").warnings


def test_an_exact_metric_has_an_interval_without_width() -> None:
    values = frame({"base": [4.0] * 3, "a": [1.0] * 3, "b": [4.0] * 3})
    found = compare(values.rename(columns={METRIC: "cost/bytes"}), "base", "cost/bytes", 0.02, "paired")
    assert (found.verdict("a").word, found.verdict("a").low, found.verdict("a").high) == (
        "better",
        -3.0,
        -3.0,
    )
    assert found.verdict("b").word == "equivalent"
    pooled = compare(values.rename(columns={METRIC: "cost/bytes"}), "base", "cost/bytes", 0.02, "pooled")
    assert [v.word for v in pooled.verdicts] == ["better", "equivalent"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.assign(status="done"), "status: unknown value done"),
        (lambda data: data.assign(role="exam"), "role: unknown value exam"),
        (lambda data: data.drop(columns="seed"), "lacks the columns seed"),
        (lambda data: data.drop(columns=METRIC), "lacks the columns heldout/loss"),
        (lambda data: data[data["arm"] == "base"], "needs an arm beside"),
        (lambda data: data[data["arm"] != "base"], "'base' is no arm"),
        (lambda data: data.assign(**{METRIC: np.inf}), "inf although the run finished"),
        (lambda data: pd.concat([data, data.assign(role="tuning")]), "must be disjoint"),
        (lambda data: data.assign(status="refused"), "baseline 'base' was refused"),
    ],
)
def test_a_frame_that_cannot_be_judged_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(change(frame(study({"a": 0.0}))))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"margin": -1.0}, "margin must be a positive"),
        ({"variance": "best"}, "allowed are paired, pooled"),
        ({"alpha": 5}, "alpha must lie"),
        ({"looks": (10, 6)}, "looks must be ascending"),
        ({"better": "more"}, "allowed are lower, higher"),
        ({"placebo": "nobody"}, "placebo: 'nobody'"),
    ],
)
def test_arguments_are_checked(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(frame(study({"a": 0.0})), **argument)


def test_a_comparison_survives_json() -> None:
    data = frame(study({"a": 0.0, "b": 0.1}), {("a", 1): "diverged", ("b", 0): "crashed"})
    found = judge(data)
    again = Comparison.model_validate_json(found.model_dump_json())
    assert again == found and again.outcomes("a").values[2] == found.outcomes("a").values[2]


def contradiction(verdict: Verdict, margin: float) -> bool:
    """Whether the word says something else than the interval (lower is better)."""
    if verdict.word == "waiting":
        return verdict.low is not None or verdict.difference is not None
    if verdict.low is None or verdict.high is None:
        return verdict.word != "undecided"
    inside = -margin <= verdict.low and verdict.high <= margin
    excludes = verdict.low > 0 or verdict.high < 0
    says = {
        "better": verdict.high < 0,
        "worse": verdict.low > 0,
        "equivalent": inside and not excludes,
        "undecided": not inside and not excludes,
    }
    return not says[verdict.word] or verdict.within_margin != (inside and excludes)


STATUS = st.sampled_from(["finished"] * 8 + ["diverged", "out_of_memory", "crashed", None])


@settings(max_examples=80)
@given(data=st.data(), variance=st.sampled_from(["paired", "pooled"]), seeds=st.integers(1, 7))
def test_no_interval_contradicts_a_verdict(data: st.DataObject, variance: str, seeds: int) -> None:
    arms = ["base", *(f"a{i}" for i in range(data.draw(st.integers(1, 3))))]
    values = st.floats(-1, 1, allow_nan=False).map(lambda x: 3 + round(x, 3))
    made = {
        arm: {seed + (20 if arm == "a0" and apart else 0): data.draw(values) for seed in range(seeds)}
        for apart in [data.draw(st.booleans())]
        for arm in arms
    }
    status = {(arm, seed): data.draw(STATUS) for arm in arms for seed in made[arm]}
    found = judge(frame(made, status), margin=0.5, variance=variance)
    for verdict in found.verdicts:
        assert not contradiction(verdict, 0.5), verdict
        contrast = found.contrast(verdict.arm, "base", 0.5)
        assert (contrast.low, contrast.high) == (verdict.low, verdict.high)


def test_bonferroni_decides_nothing_that_holm_would_not() -> None:
    from statsmodels.stats.multitest import multipletests

    found = judge(frame(study({"a": 0.02, "b": 0.01, "c": 0.0, "d": 0.5})))
    holm = multipletests([v.p for v in found.verdicts], 0.05, method="holm")[0]
    decided = [v.word in ("better", "worse") for v in found.verdicts]
    assert any(decided) and all(h for h, d in zip(holm, decided, strict=True) if d)


@VARIANCES
def test_a_contrast_between_two_arms(variance: str) -> None:
    arms = study({"a": 0.5, "b": 0.0})
    found = judge(frame(arms), variance=variance)
    contrast = found.contrast("a", "b", 0.05)
    assert contrast.difference == pytest.approx(np.mean(arms["a"] - arms["b"]))
    assert contrast.low > 0.4  # type: ignore[operator]
    back = found.contrast("base", "a", 0.05)
    assert (back.low, back.high) == (-found.verdict("a").high, -found.verdict("a").low)  # type: ignore[operator]
    waits = judge(frame(arms, {("b", 1): "crashed"}), variance=variance).contrast("a", "b", 0.05)
    assert waits.low is None and "b: seeds 1" in waits.reason
    with pytest.raises(KeyError, match="no arm 'x'"):
        found.contrast("a", "x", 0.05)


# Documents


def documents(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 400, count).astype(float)
    hard = rng.normal(3, 0.5, count)
    first, second = (tokens * (hard + rng.normal(m, 0.2, count)) for m in (0.05, 0.0))
    return np.column_stack([first, tokens]), np.column_stack([second, tokens])


def test_document_error_is_the_ratio_estimator_and_the_bootstrap() -> None:
    a, b = documents(0)
    found = document_error(a, b)
    d, n = a[:, 0] - b[:, 0], a[:, 1]
    ratio = d.sum() / n.sum()
    formula = np.sqrt(len(d) / (len(d) - 1) * ((d - ratio * n) ** 2).sum()) / n.sum()
    assert (found.difference, found.error) == pytest.approx((ratio, formula))
    drawn = np.random.default_rng(1).integers(0, len(d), (4000, len(d)))
    bootstrap = (d[drawn].sum(axis=1) / n[drawn].sum(axis=1)).std()
    assert found.error == pytest.approx(bootstrap, rel=0.05)


def test_document_error_refuses_different_text() -> None:
    a, b = documents(0)
    other = b.copy()
    other[7, 1] += 1
    with pytest.raises(ValueError, match="document 7"):
        document_error(a, other)
    with pytest.raises(ValueError, match="documents must come as"):
        document_error(a, b[:-1])
    with pytest.raises(ValueError, match="two or more"):
        document_error(a[:1], b[:1])


def test_a_verdict_carries_the_document_error_of_the_mean_over_seeds() -> None:
    data = frame(study({"a": 0.0}, seeds=2))
    cells = [documents(seed)[0 if arm == "a" else 1] for arm, seed in zip(data["arm"], [0] * 4, strict=True)]
    found = judge(data.assign(by_document=pd.Series(cells, dtype=object))).verdict("a").documents
    assert found == document_error(*documents(0))
    partly = data.assign(by_document=pd.Series([*cells[:3], None], dtype=object))
    assert judge(partly).verdict("a").documents is None
    single = data.assign(by_document=pd.Series([cell[:1] for cell in cells], dtype=object))
    assert judge(single).verdict("a") == judge(data).verdict("a")


# Power


def test_detectable_is_what_the_rules_quote() -> None:
    """STATISTICS: eight arms and six seeds detect 2.3 sd of differences paired, 1.5 pooled."""
    assert detectable(6, Setting(8, 1.0, "paired")) == pytest.approx(2.3, abs=0.05)
    assert detectable(6, Setting(8, 1.0, "pooled")) == pytest.approx(1.5, abs=0.05)


def test_power_agrees_with_statsmodels() -> None:
    from statsmodels.stats.power import TTestPower

    effect = detectable(7, Setting(1, 0.02, "paired"))
    assert effect / 0.02 == pytest.approx(TTestPower().solve_power(nobs=7, alpha=0.05, power=0.8), abs=1e-4)


def test_looks_share_alpha_and_seeds_find_more() -> None:
    for variance in ("paired", "pooled"):
        shared = detectable(6, Setting(4, 0.02, variance, alpha=0.05 / 3))
        assert detectable(6, Setting(4, 0.02, variance, looks=3)) == pytest.approx(shared)
    assert detectable(2, Setting(8, 1.0, "paired")) > detectable(3, Setting(8, 1.0, "paired"))


def test_seeds_for_equivalence_is_the_least_number() -> None:
    n = seeds_for_equivalence(0.02, Setting(2, 0.02, "paired"))
    assert n is not None
    assert power_of_equivalence(0.02, n, Setting(2, 0.02, "paired")) >= 0.8
    assert power_of_equivalence(0.02, n - 1, Setting(2, 0.02, "paired")) < 0.8


def test_seeds_for_half_width_is_where_the_half_width_meets_the_margin() -> None:
    n = seeds_for_half_width(0.01, Setting(3, 0.02, "paired"))
    assert n is not None
    half = [stats.t.isf(0.05 / 6, m - 1) * 0.02 / m**0.5 for m in (n - 1, n)]
    assert half[0] > 0.01 >= half[1]
    assert seeds_for_half_width(1e-9, Setting(3, 1.0, "paired")) is None


def test_a_claim_below_the_detectable_effect_is_warned_of() -> None:
    assert "cannot decide C16" in (warn_undetectable("C16", -0.01, 0.03) or "")
    assert warn_undetectable("C16", -0.05, 0.03) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"sd": 0.0}, "sd"), ({"alpha": 2.0}, "alpha"), ({"looks": 0}, "one look"), ({"seeds": 1}, "two seeds")],
)
def test_impossible_plans_are_refused(wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"arms": 2, "sd": 1.0, "variance": "paired", **wrong}
    seeds = given.pop("seeds", 6)
    with pytest.raises(ValueError, match=message):
        detectable(seeds, Setting(**given))


# Effect in tokens, descriptive metrics


def budgets(slope: float, sd: float, of: tuple[float, ...] = (0.5, 1.0, 2.0)) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"budget": b, "seed": s, "status": "finished", METRIC: 3 + slope * np.log2(b) + rng.normal(0, sd)}
            for b in of
            for s in range(4)
        ]
    )


def test_an_effect_in_tokens() -> None:
    slope = token_slope(budgets(-0.1, 0.001), METRIC)
    assert slope.low < -0.1 < slope.high  # type: ignore[operator]
    effect = effect_in_tokens(-0.1, -0.11, -0.09, slope)
    assert effect.multiple == pytest.approx(2, rel=0.02)
    assert effect.low < 2**0.9 and effect.high > 2**1.1  # type: ignore[operator]
    assert effect_in_tokens(0.1, 0.09, 0.11, slope).multiple == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("runs", [budgets(-0.1, 0.001, (1.0, 2.0)), budgets(0.0, 0.1)])
def test_an_effect_in_tokens_is_left_blank(runs: pd.DataFrame) -> None:
    effect = effect_in_tokens(-0.1, -0.11, -0.09, token_slope(runs, METRIC))
    assert effect.multiple is None and effect.reason


def test_descriptive_metrics_are_adjusted_together() -> None:
    from statsmodels.stats.multitest import multipletests

    data = frame(study({"a": 0.02, "b": 0.5}))
    data = data.assign(other=noise(len(data)), kv=1.0)
    found = describe(data, "base", ["other", "kv", METRIC])
    assert len(found) == 6
    adjusted = multipletests([d.p for d in found], method="fdr_bh")[1]
    assert [d.p_adjusted for d in found] == pytest.approx(list(adjusted))
    assert [d.arm for d in found if d.metric == METRIC and d.noteworthy][-1] == "b"


def test_outcomes_tell_what_happened_to_every_seed() -> None:
    data = frame(study({"a": 0.0}), {("a", 0): "diverged", ("a", 1): "out_of_memory", ("a", 2): "crashed"})
    runs = read_outcomes(data, "base", METRIC)["a"]
    assert (runs.diverged, runs.out_of_memory, runs.missing) == ((0,), (1,), {2: "crashed"})
    assert set(runs.values) == {3, 4, 5}


def test_the_judge_does_not_import_torch() -> None:
    code = (
        "import sys, ablate.study.judge.claims, ablate.study.stats.tuning, ablate.study.stats.factorial\n"
        "import ablate.study.stats.tokens, ablate.study.stats.describe; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
