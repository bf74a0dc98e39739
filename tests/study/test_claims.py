"""Claims: their grammar, and how they are judged against a comparison."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.study.design.claim import Claim, Equivalent, Level, Ordered, Published, Ratio, parse
from ablate.study.judge.claims import Judgement, headline, judge
from ablate.study.judge.compare import Comparison, compare

METRIC = "heldout/loss"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rope < none", Ordered(arms=("rope", "none"), relation="<")),
        ("rope<none", Ordered(arms=("rope", "none"), relation="<")),
        ("post > pre", Ordered(arms=("post", "pre"), relation=">")),
        ("rope < learned < none", Ordered(arms=("rope", "learned", "none"), relation="<")),
        ("relu2 < swiglu + 0.01", Ordered(arms=("relu2", "swiglu"), relation="<", offset=0.01)),
        ("relu2 < swiglu - 1e-2", Ordered(arms=("relu2", "swiglu"), relation="<", offset=-0.01)),
        ("swiglu ~ geglu within 0.01", Equivalent(arms=("swiglu", "geglu"), margin=0.01)),
        ("mha/gqa == 4", Ratio(arms=("mha", "gqa"), relation="==", value=4)),
        ("mha / gqa == 4 within 0.1", Ratio(arms=("mha", "gqa"), relation="==", value=4, within=0.1)),
        ("mqa/mha < 1.02", Ratio(arms=("mqa", "mha"), relation="<", value=1.02)),
        ("gpt2-block < no-norm", Ordered(arms=("gpt2-block", "no-norm"), relation="<")),
        ('"a + b" < "c / d"', Ordered(arms=("a + b", "c / d"), relation="<")),
        ('"2" < "10"', Ordered(arms=("2", "10"), relation="<")),
        ("2-layer < 1.3B", Ordered(arms=("2-layer", "1.3B"), relation="<")),
        ("nan < inf", Ordered(arms=("nan", "inf"), relation="<")),
        ("alibi < 1.02", Level(arms=("alibi",), relation="<", value=1.02)),
        ("alibi>.9", Level(arms=("alibi",), relation=">", value=0.9)),
        ("none < 0", Level(arms=("none",), relation="<", value=0)),
        ("none > -1.5e-2", Level(arms=("none",), relation=">", value=-0.015)),
        ("llama == 1.88 within 0.03", Level(arms=("llama",), relation="==", value=1.88, within=0.03)),
        ("mha == 4096", Level(arms=("mha",), relation="==", value=4096)),
        ('"16" == 4', Level(arms=("16",), relation="==", value=4)),
    ],
)
def test_the_grammar(text: str, expected: Any) -> None:
    assert parse(text) == expected
    assert Claim(id="C", predicate=text).parsed == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends where an arm"),
        ("rope", "ends where one of < > ~ /"),
        ("rope <", "ends where an arm"),
        ("rope < none > learned", "'>' stands where"),
        ("rope == none", "'none' stands where a number"),
        ("2 < rope", "'2' stands where an arm (put one whose name is a number in double quotes)"),
        ("rope < none < 3", "'3' stands where an arm (put one"),
        ("rope ~ 3 within 1", "'3' stands where an arm (put one"),
        ("rope < 3 < none", "'<' stands where the end"),
        ("rope < 3 + 1", "'+' stands where the end"),
        ("rope == 3 within -1", "'-1' stands where a positive number"),
        ("rope < 1e999", "'1e999' stands where a number"),
        ("rope < none < ", "ends where an arm"),
        ("a ~ b", "ends where `within`"),
        ("a ~ b within -1", "'-1' stands where a positive number"),
        ("a < -b", "not understood"),
        ("a ~ b within much", "'much' stands where a positive number"),
        ("a/b == x", "positive number"),
        ("a/b ~ 4", "'~' stands where one of == < >"),
        ("a/b == 4 5", "'5' stands where `within`"),
        ("a < b + 0.1 < c", "'<' stands where the end"),
        ("a < a", "compared with itself"),
        ("__import__('os')", "not understood"),
    ],
)
def test_what_is_not_a_predicate_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="claim " + ".*") as error:
        parse(text)
    assert message in str(error.value)


@given(st.text(max_size=40))
def test_parsing_any_text_either_works_or_raises_value_error(text: str) -> None:
    try:
        predicate = parse(text)
    except ValueError:
        return
    assert len(predicate.arms) >= 1 + (predicate.kind != "level")


def comparison(effects: dict[str, float], sd: float = 0.005, seeds: int = 6, **rest: Any) -> Comparison:
    rng = np.random.default_rng(0)
    rows = [
        {"arm": arm, "seed": s, "status": "finished", "role": "test", METRIC: 3 + effect + rng.normal(0, sd)}
        for arm, effect in effects.items()
        for s in range(seeds)
    ]
    data = pd.DataFrame(rows)
    if "crash" in rest:
        crashed = (data["arm"] == rest.pop("crash")) & (data["seed"] == 0)
        data["status"] = data["status"].where(~crashed, "crashed")
    return compare(data, next(iter(effects)), METRIC, margin=0.03, variance="paired", **rest)


def word(predicate: str, found: Comparison) -> str:
    return judge([Claim(id="C", predicate=predicate)], found)[0].word


def test_judgements_on_clear_data() -> None:
    found = comparison({"rope": 0.0, "learned": 0.1, "none": 0.2, "twin": 0.0})
    assert word("rope < none", found) == "pass"
    assert word("none < rope", found) == "fail"
    assert word("none > rope", found) == "pass"
    assert word("rope < learned < none", found) == "pass"
    assert word("learned < rope < none", found) == "fail"
    assert word("rope ~ twin within 0.03", found) == "pass"
    assert word("rope ~ none within 0.03", found) == "fail"
    assert word("rope < twin", found) == "no difference that matters"  # equivalent
    assert word("twin < rope + 0.05", found) == "pass"
    assert word("none < learned + 0.05", found) == "fail"


def test_judgements_on_noisy_data() -> None:
    found = comparison({"base": 0.0, "a": 0.02, "b": 0.5}, sd=0.2)
    estimate = found.verdict("a").difference
    assert estimate is not None and found.verdict("a").word == "undecided"
    smaller, larger = ("a", "base") if estimate < 0 else ("base", "a")
    assert word(f"{smaller} < {larger}", found) == "undecided (sign as claimed)"
    assert word(f"{larger} < {smaller}", found) == "undecided"
    assert word(f"a ~ base within {abs(estimate) * 1.01}", found) == "undecided (sign as claimed)"
    assert word(f"a ~ base within {abs(estimate) * 0.5}", found) == "undecided"


def test_a_claim_waits_for_missing_runs() -> None:
    found = comparison({"rope": 0.0, "learned": 0.1, "none": 0.2}, crash="none")
    (judged,) = judge([Claim(id="C16", predicate="rope < none")], found)
    assert judged.word == "undecided" and "waiting" in judged.reason
    assert word("learned < none", found) == "undecided"
    assert word("learned/none < 2", found) == "undecided"


def test_a_claim_against_the_baseline_uses_the_verdicts_interval() -> None:
    found = comparison({"rope": 0.0, "none": 0.2, "learned": 0.1})
    claims = [Claim(id="A", predicate="rope < none"), Claim(id="B", predicate="learned < none")]
    first, second = judge(claims, found)
    verdict = found.verdict("none")
    assert verdict.low is not None and verdict.high is not None
    assert (first.contrasts[0].low, first.contrasts[0].high) == (-verdict.high, -verdict.low)
    assert second.contrasts[0].alpha == 0.05
    more = judge([*claims, Claim(id="C", predicate="learned/none < 1")], found)
    assert more[1].contrasts[0].alpha == 0.025  # split over the contrasts that are not in the family


def test_exact_ratios() -> None:
    rows = [
        {"arm": arm, "seed": seed, "status": "finished", "role": "test", "cost/kv_bytes": value}
        for arm, value in {"mha": 4096.0, "gqa": 1024.0, "mqa": 256.0}.items()
        for seed in (0, 1)
    ]
    found = compare(pd.DataFrame(rows), "mha", "cost/kv_bytes", None, "paired")
    assert word("mha/gqa == 4", found) == "pass"
    assert word("mha/gqa == 5", found) == "fail"
    assert word("gqa/mqa > 3", found) == "pass"
    assert word("gqa/mqa < 4", found) == "fail"
    single = compare(pd.DataFrame(rows[::2]), "mha", "cost/kv_bytes", None, "paired")
    (judged,) = judge([Claim(id="C", predicate="mha/gqa == 4")], single)
    assert judged.word == "undecided" and "fewer than two seeds" in judged.reason


def test_noisy_ratios() -> None:
    found = comparison({"a": 3.0, "b": 0.0}, sd=0.01)  # 6 and 3
    assert word("a/b == 2 within 0.1", found) == "pass"
    assert word("a/b == 2", found) in (
        "undecided (sign as claimed)",
        "undecided",
    )  # noise never proves equality
    assert word("a/b == 3 within 0.1", found) == "fail"
    assert word("a/b < 1.5", found) == "fail"
    assert word("a/b > 1.5", found) == "pass"
    (judged,) = judge([Claim(id="C", predicate="a/b > 1.5")], found)
    assert judged.contrasts[0].difference == pytest.approx(2, abs=0.02)


def test_levels() -> None:
    found = comparison({"rope": 0.0, "alibi": -0.1}, sd=0.005)
    assert word("alibi < 2.95", found) == "pass"
    assert word("alibi > 2.95", found) == "fail"
    assert word("alibi == 2.9 within 0.03", found) == "pass"
    assert word("alibi == 2.9", found) in (
        "undecided (sign as claimed)",
        "undecided",
    )  # noise never proves equality
    assert word("alibi == 3 within 0.03", found) == "fail"
    mean = float(np.mean(list(found.outcomes("rope").values.values())))
    assert word(f"rope < {mean + 1e-4}", found) == "undecided (sign as claimed)"
    assert word(f"rope < {mean - 1e-4}", found) == "undecided"


def test_a_level_has_students_interval_at_its_share_of_alpha() -> None:
    found = comparison({"rope": 0.0, "alibi": -0.1}, sd=0.05)
    claims = [
        Claim(id="A", predicate="alibi < 3"),
        Claim(id="B", predicate="alibi > 2"),  # the same interval again
        Claim(id="C", predicate="rope == 3 within 1"),
        Claim(id="D", predicate="alibi < rope"),  # the verdict's own
    ]
    first, again, other, verdict = (judged.contrasts[0] for judged in judge(claims, found))
    values = list(found.outcomes("alibi").values.values())
    expected = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 2)
    assert (first.low, first.high) == pytest.approx((expected.low, expected.high))
    assert (again.low, again.high) == pytest.approx((first.low, first.high))
    assert first.difference == pytest.approx(np.mean(values))
    assert first.alpha == other.alpha == 0.025 and verdict.alpha == 0.05
    assert (first.first, first.second) == ("alibi", "")


def test_a_true_level_is_seldom_refuted() -> None:
    studies, wrong = 200, 0
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        [{"arm": a, "seed": s, "status": "finished", "role": "test"} for a in "ab" for s in range(4)]
    )
    for _ in range(studies):
        found = compare(data.assign(**{METRIC: rng.normal(2, 1, len(data))}), "a", METRIC, None, "paired")
        words = [word(f"a {relation} 2", found) for relation in "<>"]
        wrong += "pass" in words
        assert words.count("fail") == words.count("pass")
    assert 0 < wrong <= stats.binom.ppf(0.999, studies, 0.05)


def test_exact_levels_need_two_seeds() -> None:
    rows = [
        {"arm": arm, "seed": seed, "status": "finished", "role": "test", "cost/kv_bytes": value}
        for arm, value in {"mha": 4096.0, "mqa": 0.1 + 0.2}.items()
        for seed in (0, 1)
    ]
    found = compare(pd.DataFrame(rows), "mha", "cost/kv_bytes", None, "paired")
    assert word("mha == 4096", found) == "pass"
    assert word("mha == 4097", found) == "fail"
    assert word("mha < 4096", found) == "fail"
    assert word("mqa == 0.3", found) == "pass"  # up to rounding
    tied = compare(
        pd.DataFrame(rows).assign(**{"cost/kv_bytes": 256.0}), "mha", "cost/kv_bytes", None, "paired"
    )
    assert {word(text, tied) for text in ("mqa < mha", "mqa > mha", "mqa/mha < 1")} == {"fail"}
    single = compare(pd.DataFrame(rows[::2]), "mha", "cost/kv_bytes", None, "paired")
    (judged,) = judge([Claim(id="C", predicate="mha == 4096")], single)
    assert judged.word == "undecided" and "fewer than two seeds" in judged.reason


def test_a_level_waits_for_its_own_arm_alone_and_names_failures() -> None:
    found = comparison({"rope": 0.0, "learned": 0.1, "none": 0.2}, crash="none")
    assert word("none < 5", found) == "undecided"
    assert word("learned < 5", found) == "pass"
    between = comparison({"rope": 0.0, "none": 0.2}, seeds=5, looks=(4, 6))
    (judged,) = judge([Claim(id="C", predicate="none < 5")], between)
    assert judged.word == "undecided" and judged.contrasts[0].difference is None
    rows = [
        {"arm": arm, "seed": seed, "role": "test", METRIC: 3 + seed / 100, "status": "finished"}
        for arm in "ab"
        for seed in range(4)
    ]
    rows[5]["status"] = "diverged"
    partly = compare(pd.DataFrame(rows), "a", METRIC, None, "paired")
    (judged,) = judge([Claim(id="C", predicate="b < 5")], partly)
    assert judged.word == "pass" and "without seeds 1" in judged.reason


@pytest.mark.parametrize("predicate", ["b > a", "b > c", "b ~ a within 1", "b/a > 1"])
def test_a_claim_says_which_seeds_it_is_without(predicate: str) -> None:
    rows = [
        {"arm": arm, "seed": seed, "role": "test", METRIC: level + seed**2 / 100, "status": "finished"}
        for arm, level in {"a": 3, "b": 3.5, "c": 2}.items()
        for seed in range(6)
    ]
    rows[7]["status"], rows[9]["status"] = "diverged", "out_of_memory"
    rows[8][METRIC] += 1e-3
    found = compare(pd.DataFrame(rows), "a", METRIC, None, "paired")
    (judged,) = judge([Claim(id="C", predicate=predicate)], found)
    assert judged.word == "pass"
    assert judged.reason.endswith("], among the runs that finished, without seeds 1, 3")


def test_a_level_stands_beside_the_published_one() -> None:
    found = comparison({"llama": 0.0, "other": 0.0})
    published = Published(effect=2.5, source="a README")
    (judged,) = judge([Claim(id="C", predicate="llama == 3 within 0.1", published=published)], found)
    assert judged.beside is not None and not judged.beside.same_sign
    assert judged.beside.ours == pytest.approx(3, abs=0.01)
    assert judged.beside.size == pytest.approx(1.2, abs=0.01)
    (judged,) = judge([Claim(id="C", predicate="llama < 3.5", published=published)], found)
    assert judged.beside is not None and judged.beside.same_sign


def test_a_claim_is_set_beside_the_published_effect() -> None:
    found = comparison({"gelu": 0.0, "swiglu": -0.1})
    published = Published(effect=-0.05, source="arXiv:2002.05202", differs="a larger model")
    (judged,) = judge([Claim(id="C01", predicate="swiglu < gelu", published=published)], found)
    assert judged.beside is not None and judged.beside.same_sign
    assert judged.beside.size == pytest.approx(2, rel=0.1)
    other = Published(effect=0.05, source="nowhere")
    (judged,) = judge([Claim(id="C01", predicate="swiglu < gelu", published=other)], found)
    assert judged.beside is not None and not judged.beside.same_sign
    ratio = Published(effect=2.0, source="nowhere")
    (judged,) = judge([Claim(id="C20", predicate="gelu/swiglu > 1", published=ratio)], found)
    assert judged.beside is not None and judged.beside.same_sign  # both above 1


def test_unknown_arms_and_measures_are_refused() -> None:
    found = comparison({"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match="claim C1: rope is no arm here; the arms are a, b"):
        judge([Claim(id="C1", predicate="rope < a")], found)
    with pytest.raises(ValueError, match="claim C2: it is on 'length/ppl'"):
        judge([Claim(id="C2", predicate="a < b", measure="length/ppl")], found)
    with pytest.raises(ValueError, match="stands where"):
        Claim(id="C3", predicate="a == b")


def test_a_headline_needs_two_corpora_with_the_same_sign() -> None:
    def judged(effect: float, predicate: str = "a ~ b within 0.05") -> Judgement:
        return judge([Claim(id="C", predicate=predicate)], comparison({"b": 0.0, "a": effect}))[0]

    assert headline(judged(0.2, "b < a"), judged(0.3, "b < a"))
    assert not headline(judged(0.2, "b < a"), judged(-0.2, "b < a"))
    assert not headline(judged(0.02), judged(-0.02))


def test_judgements_survive_json() -> None:
    for judged in judge([Claim(id="C", predicate="a < b")], comparison({"a": 0.0, "b": 0.2})):
        assert Judgement.model_validate_json(judged.model_dump_json()) == judged


def test_a_ratio_is_shown_as_a_ratio_and_minus_signs_are_one() -> None:
    """It used to be printed as a difference: `mqa against mha +0.5978`."""
    found = comparison({"mha": 0.0, "mqa": -1.0})
    claims = [Claim(id="R", predicate="mqa/mha < 1"), Claim(id="D", predicate="mqa < mha")]
    ratio, difference = judge(claims, found)
    assert re.fullmatch(r"mqa / mha = 0\.\d+ \[0\.\d+, 0\.\d+\]", ratio.reason)
    assert re.fullmatch(r"mqa against mha −\d\.\d+ \[−\d\.\d+, −\d\.\d+\]", difference.reason)
