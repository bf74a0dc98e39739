"""Matching: the search, the knobs, and arms that reach the baseline's cost or are refused."""

from typing import Any

import pytest
from study_fakes import Fake, study

from ablate.study.design.differences import fetch
from ablate.study.design.match import OutOfReach, candidates, solve, turned
from ablate.study.design.plan import plan
from ablate.study.design.planned import Plan, held_amount
from ablate.study.design.study import StudyError

FFN: dict[str, Any] = {
    "axis": ["model.ffn"],
    "baseline": "glu",
    "arms": {"glu": [], "mlp": ["model/ffn=gelu"]},
}


def matched(fake: Fake | None = None, match: dict[str, Any] | None = None, **changes: Any) -> Plan:
    fake = fake or Fake()
    match = {"hold": "non_embedding_params", "by": "ffn.width", **(match or {})}
    return plan(study(**{**FFN, "match": match, **changes}), fake)


@pytest.mark.parametrize("target", [1, 7.4, 500, 99_999])
@pytest.mark.parametrize("start", [None, 1, 60, 5000])
def test_the_nearest_whole_number_is_found(target: float, start: int | None) -> None:
    def cost(n: int) -> float:
        return 3.0 * n + 0.001 * n**2

    found = solve(cost, cost(round(target)) + 0.4, range(1, 1 << 24), start)
    assert found == round(target)


def test_few_looks_are_needed_where_cost_is_linear() -> None:
    looks: list[int] = []

    def cost(n: int) -> float:
        looks.append(n)
        return 17.0 + 96.0 * n

    assert solve(cost, 17.0 + 96.0 * 120, range(1, 1 << 24), 80) == 120
    assert len(looks) <= 6


def test_what_does_not_rise_is_out_of_reach() -> None:
    with pytest.raises(OutOfReach, match="does not rise"):
        solve(lambda n: 5.0, 10.0, range(1, 1000), 10)


def test_a_target_beyond_the_ends_gives_the_end() -> None:
    assert solve(float, 0.1, range(1, 100), 10) == 1
    assert solve(float, 1e9, range(1, 100), 10) == 99


def test_key_value_heads_divide_the_heads() -> None:
    spec = Fake().compose([])
    assert list(candidates(spec, "model.attention.kv_heads", 1)) == [1, 2, 4]
    assert list(candidates(spec, "model.ffn.width", 8))[:3] == [8, 16, 24]


def test_an_arm_is_matched_and_the_residual_shown() -> None:
    base, arm = matched().arms
    assert arm.matched is not None
    assert (arm.matched.before, arm.matched.after) == (80, 120)
    assert arm.matched.residual == 0 and arm.matched.unmatched < -0.1
    assert held_amount("non_embedding_params", arm.spec, arm.facts) == held_amount(
        "non_embedding_params", base.spec, base.facts
    )
    assert arm.overrides == ("model/ffn=gelu", "model.ffn.width=120")
    assert {d.path: d.reason for d in arm.differs}["model.ffn.width"] == "matched"


def test_multiples_leave_a_residual_within_the_tolerance() -> None:
    _, arm = matched(match={"multiple": 32, "tolerance": 0.06}).arms
    assert arm.matched is not None and arm.matched.after is not None
    assert arm.matched.after % 32 == 0
    assert 0 < abs(arm.matched.residual) <= 0.06


def test_an_arm_that_agrees_is_left_alone() -> None:
    _, arm = matched(match={"tolerance": 0.9}).arms
    assert arm.matched is not None and arm.matched.after is None
    assert fetch(arm.spec, "model.ffn.width") == 80


@pytest.mark.parametrize(
    ("match", "arms", "said"),
    [
        ({"multiple": 64}, {}, "cannot be matched within 0.50% by model.ffn.width: the nearest, 128"),
        ({"by": "steps"}, {}, "steps change no non_embedding_params; hold train_flops"),
        ({}, {"moe": ["model/ffn=moe"]}, "arm moe: match.by: model.ffn.width: model.ffn has no 'width'"),
        (
            {"by_arm": {"moe": "model.ffn.expert.width"}},
            {"moe": ["model/ffn=moe", "model.ffn.experts=4000"]},
            "arm moe: match",
        ),
    ],
)
def test_out_of_reach_is_refused(match: dict[str, Any], arms: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        matched(match=match, arms={**FFN["arms"], **arms}, axis=["model.ffn"])
    assert any(said in line for line in caught.value.mistakes), caught.value.mistakes


@pytest.mark.parametrize("knob", ["model.ffn.widht", "optim.lr", "model.ffn.name"])
def test_a_knob_that_cannot_be_turned_is_refused_though_no_arm_needs_it(knob: str) -> None:
    with pytest.raises(StudyError, match=f"match.by: {knob}"):
        matched(match={"by": knob, "tolerance": 0.9})


def test_another_knob_for_an_arm() -> None:
    arms = {**FFN["arms"], "moe": ["model/ffn=moe"]}
    found = matched(match={"by_arm": {"moe": "model.ffn.expert.width"}}, arms=arms)
    assert found.arms[2].matched is not None and found.arms[2].matched.after == 30


def test_training_flops_are_matched_by_steps() -> None:
    base, arm = matched(match={"hold": "train_flops", "by": "steps"}).arms
    assert arm.matched is not None and arm.matched.after is not None
    assert arm.spec["budget"]["tokens"] == arm.matched.after * arm.spec["budget"]["batch_tokens"] > 8000
    assert (
        abs(
            held_amount("train_flops", arm.spec, arm.facts)
            / held_amount("train_flops", base.spec, base.facts)
            - 1
        )
        <= 0.005
    )
    assert [d.path for d in arm.differs if d.reason == "matched"] == ["budget.tokens"]


def test_the_unmatched_arm_is_kept_beside() -> None:
    found = matched(
        match={"also_unmatched": ["mqa"]},
        axis=["model.attention"],
        baseline="mha",
        arms={"mha": [], "mqa": ["model.attention.kv_heads=1"], "gqa": ["model.attention.kv_heads=2"]},
        claims=[{"id": "C21", "predicate": "mqa < mqa-unmatched"}],
    )
    assert [arm.name for arm in found.arms] == ["mha", "mqa", "mqa-unmatched", "gqa"]
    assert fetch(found.arms[2].spec, "model.ffn.width") == 80 != fetch(found.arms[1].spec, "model.ffn.width")


def test_variants_follow_the_common_layer() -> None:
    spec = Fake().compose(["model/layers=local"])
    spec["model"]["variants"]["far"]["ffn"]["width"] = 7
    wider = turned(spec, "model.ffn.width", 96)
    assert fetch(wider, "model.variants.near.ffn.width") == 96
    assert fetch(wider, "model.variants.far.ffn.width") == 7
    assert fetch(spec, "model.ffn.width") == 80


def test_every_corpus_takes_the_same_knob() -> None:
    found = matched(corpora=["data=stdlib", "data=english"])
    assert {arm.matched.after for arm in found.arms if arm.matched} == {120}
    assert len(found.arms) == 4
