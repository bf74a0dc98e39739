"""The plan: what is refused before anything runs, the placebo, and the one kernel."""

from typing import Any

import pytest
from study_fakes import GROUPS, RATES, Fake, study

from ablate.study.design.arms import expand
from ablate.study.design.differences import fetch, flatten, spec_differences, with_value
from ablate.study.design.gates import Planning
from ablate.study.design.plan import plan
from ablate.study.design.planned import Facts, Plan
from ablate.study.design.study import StudyError


def planned(fake: Fake | None = None, **changes: Any) -> Plan:
    fake = fake or Fake()
    return plan(study(**changes), fake)


def refused(fake: Fake | None = None, **changes: Any) -> list[str]:
    with pytest.raises(StudyError) as caught:
        planned(fake, **changes)
    return caught.value.mistakes


def arms(**more: list[str]) -> dict[str, list[str]]:
    return {"rope": [], "alibi": ["model/position=alibi"], **more}


def test_a_sound_study_is_planned() -> None:
    found = planned()
    assert found.baseline == "rope" and found.family == ("alibi", "none") and found.placebo is None
    assert {d.path for d in found.arms[1].differs} == {
        f"model.position.{k}" for k in ("name", "base", "max_slope_exponent")
    }
    assert {d.reason for arm in found.arms for d in arm.differs} == {"axis"}


def test_a_difference_outside_the_axis_is_refused_with_both_values() -> None:
    lines = refused(arms=arms(x=["model/position=none", "optim.weight_decay=0.2", "model.depth=3"]))
    assert lines == [
        "arm x: model.depth: 4 -> 3 lies outside the axis (model.position); set it in base, "
        "or widen the axis",
        "arm x: optim.weight_decay: 0.1 -> 0.2 lies outside the axis (model.position); set it in base, "
        "or widen the axis",
    ]


@pytest.mark.parametrize(
    ("data", "metric", "said"),
    [
        ({"source": "english"}, "heldout/bits_per_byte", "its text is not the baseline's"),
        ({"source": "stdlib", "tokenizer": "bytes"}, "validation/loss", "take bits_per_byte"),
        ({"source": "stdlib", "tokenizer": "bytes"}, "heldout/bits_per_byte", None),
        ({"source": "english"}, "skill/exact", None),
        (
            {"source": "stdlib", "documents": "masked"},
            "heldout/loss",
            "data.documents decides what is a target",
        ),
        ({"source": "stdlib", "documents": "masked"}, "skill/exact", None),
    ],
)
def test_what_does_not_compare_is_refused(data, metric: str, said: str | None, monkeypatch) -> None:
    monkeypatch.setitem(GROUPS["data"], "other", data)
    changes = {"axis": ["data"], "arms": {"rope": [], "other": ["data=other"]}, "metric": metric}
    if said is None:
        planned(**changes)
    else:
        (line,) = refused(**changes)
        assert line.startswith("arm other: ") and said in line


OTHER_TEXT, OTHER_TOKENS = "its text is not the baseline's", "its tokens are not the baseline's"


@pytest.mark.parametrize(
    ("paths", "sets", "tokenizer", "metric", "said"),
    [
        (["weights.code", "most_epochs"], False, "bytes", "heldout/loss", None),
        (["weights.code", "sources.code.files"], False, "bytes", "heldout/loss", OTHER_TEXT),
        (["files"], True, "bytes", "heldout/loss", OTHER_TEXT),
        (["files"], True, "bytes", "heldout/books/loss", None),
        (["files"], False, "bytes", "heldout/books/loss", OTHER_TEXT),
        (["files"], True, "bpe", "heldout/books/loss", OTHER_TOKENS),
        (["files"], True, "bpe", "heldout/macro/bits_per_byte", None),
    ],
)
def test_losses_compare_on_the_same_text_and_tokens_alone(paths, sets, tokenizer, metric, said) -> None:
    planning = Planning(study(metric=metric), "", (), expand(study()), Fake(), {})
    data = {"tokenizer": {"name": tokenizer}, "sets": {"books": {}} if sets else None}
    lines = [*planning.incomparable([f"data.source.{path}" for path in paths], data)]
    assert [line.partition(",")[0] for line in lines] == ([said] if said else [])
    if not said:
        (line,) = planning.incomparable(["data.sets.books.files"], data)
        assert line.startswith(OTHER_TEXT)


def test_the_refusals_of_all_arms_come_at_once() -> None:
    lines = refused(
        arms=arms(
            typo=["model/position=ropee"],
            outside=["model/position=none", "model.depth=3"],
            same=["model.position.base=10000.0"],
            again=["model/position=alibi"],
        )
    )
    assert [line.split(":")[0] for line in lines] == ["arm typo", "arm outside", "arm same", "arm again"]


def test_what_check_refuses_is_shown_beside_the_rest() -> None:
    lines = refused(
        base=["model.heads=2"], arms=arms(learned=["model/position=learned"], typo=["model/ffn=x"])
    )
    assert lines[0].startswith("arm typo: model/ffn: no choice 'x'")
    assert lines[1] == "arm learned: learned positions refuse two heads"


def test_faults_of_the_program_are_not_taken_for_mistakes() -> None:
    with pytest.raises(KeyError, match="modle"):
        planned(arms=arms(x=["modle.depth=3"]))


def test_an_arm_equal_to_the_baseline_is_a_no_op() -> None:
    assert refused(arms=arms(same=[])) == ["arm same: is a no-op: its specification equals the baseline's"]


def test_an_arm_that_changes_no_output_is_a_no_op_unless_it_says_why_it_acts() -> None:
    changes: dict[str, Any] = {
        "axis": ["model.ffn"],
        "base": ["model/ffn=moe"],
        "baseline": "free",
        "arms": {"free": [], "held": ["model.ffn.balance_loss_weight=0.5"]},
    }
    (line,) = refused(**changes)
    assert "arm held: is a no-op: parameters and outputs equal those of free" in line
    assert "allow_no_op: {held: reason}" in line
    found = planned(**changes, allow_no_op={"held": "the balance loss acts from the first step on"})
    assert found.arms[1].note == "the balance loss acts from the first step on"


def test_a_no_op_is_found_although_matching_would_change_its_shapes() -> None:
    lines = refused(
        axis=["model.ffn"],
        base=["model/ffn=moe"],
        baseline="moe",
        arms={"moe": [], "x": ["model.ffn.expert.width=99"], "y": ["model.ffn.balance_loss_weight=0.5"]},
        match={"hold": "total_params", "by": "model.ffn.expert.width"},
    )
    assert "arm x: is a no-op: it differs from the baseline only in model.ffn.expert.width" in lines[0]
    assert lines[1].startswith("arm y: is a no-op")


def test_what_lies_outside_the_model_acts_through_training() -> None:
    found = planned(axis=["optim"], baseline="a", arms={"a": [], "b": ["optim.weight_decay=0.0"]})
    assert [d.path for d in found.arms[1].differs] == ["optim.weight_decay"]


def test_duplicates_are_refused() -> None:
    assert refused(arms=arms(alibi_again=["model/position=alibi"])) == [
        "arm alibi_again: is a duplicate of alibi: their specifications are equal"
    ]
    lines = refused(
        axis=["model.ffn"],
        baseline="glu",
        arms={"glu": [], "a": ["model/ffn=moe"], "b": ["model/ffn=moe", "model.ffn.balance_loss_weight=0.5"]},
    )
    assert lines[0].startswith("arm b: is a duplicate: parameters and outputs equal those of a")


TUNE = {"optim.lr": RATES}


def test_the_tuned_value_may_differ_outside_the_axis() -> None:
    own = arms(low=["model/position=none", "optim.lr=0.0001"])
    found = planned(arms=own, tune=TUNE)
    assert {d.path: d.reason for d in found.arms[2].differs}["optim.lr"] == "tuned"
    (line,) = refused(arms=own)
    assert line.startswith("arm low: optim.lr: 0.003 -> 0.0001 lies outside the axis")


def test_an_arm_that_differs_only_in_the_tuned_value_is_a_no_op() -> None:
    (line,) = refused(arms=arms(low=["optim.lr=0.0001"]), tune=TUNE)
    assert "arm low: is a no-op: it differs from the baseline only in optim.lr" in line
    (line,) = refused(arms=arms(x=["model/position=alibi", "optim.lr=0.0001"]), tune=TUNE)
    assert line == "arm x: is a duplicate of alibi: their specifications are equal"


def test_paths_must_be_there() -> None:
    lines = refused(axis=["model.position", "model.positions"], tune={"optim.rate": RATES})
    assert lines[0].startswith(
        "axis: model.positions is in no arm's specification; did you mean model.position"
    )
    assert "arm rope: tune: optim.rate: optim has no 'rate'; it has name, lr, weight_decay" in lines


def test_layers_that_differ_are_differences_of_the_layer() -> None:
    found = planned(
        axis=["model.attention"], baseline="full", arms={"full": [], "local": ["model/layers=local"]}
    )
    assert [(d.path, d.arm) for d in found.arms[1].differs] == [("model.attention.window", (4, None))]
    lines = refused(arms=arms(local=["model/position=alibi", "model/layers=local"]))
    assert "arm local: model.attention.window" in lines[0] and len(lines) == 1


def test_the_placebo_redraws_what_the_axis_owns() -> None:
    found = planned(placebo=True, baseline="learned", arms=arms(learned=["model/position=learned"])).arms[-1]
    assert found.redraw == ("positions.*",)
    assert found.spec["seed"]["redraw"] == ["positions.*"]
    assert found.overrides == ("model/position=learned",)
    assert [d.reason for d in found.differs] == ["placebo"]


def test_the_placebo_of_rope_redraws_all_layers_and_says_why() -> None:
    found = planned(placebo=True)
    assert found.placebo == "placebo" and found.family[-1] == "placebo"
    assert found.arms[-1].redraw == ("layers.*",)
    assert "owns no tensor of the baseline" in found.arms[-1].note


@pytest.mark.parametrize("refused", [True, False])
def test_a_placebo_that_changes_nothing_is_widened(refused: bool) -> None:
    class Constant(Fake):
        """The position's table starts at a constant: redrawing it does nothing, or is refused."""

        def check(self, spec: dict[str, Any]) -> Any:
            redrawn = [p for p in spec["seed"]["redraw"] if p != "positions.*"]
            if refused and spec["seed"]["redraw"] and not redrawn:
                return Facts(refusals=("seed.redraw: what is called positions.* starts from constants",))
            return super().check({**spec, "seed": {**spec["seed"], "redraw": redrawn}})

    fake = Constant()
    found = planned(fake, placebo=True, baseline="learned", arms=arms(learned=["model/position=learned"]))
    assert found.arms[-1].redraw == ("layers.*",)
    assert "changes no output" in found.arms[-1].note


def test_all_arms_take_one_kernel() -> None:
    fake = Fake()
    fake.kernels = {"alibi": ("flex", "reference")}
    found = planned(fake)
    assert {arm.facts.kernel for arm in found.arms} == {"reference"}
    assert {fetch(arm.spec, "model.kernel.name") for arm in found.arms} == {"reference"}
    assert "kernel: reference for all arms" in found.warnings[0]
    assert all("model/kernel=reference" in arm.overrides for arm in found.arms)
    fake.kernels = {"alibi": ("flex",)}
    (line,) = refused(fake)
    assert line.startswith("kernel: no kernel serves every arm")


def test_the_study_is_planned_on_each_corpus() -> None:
    found = planned(corpora={"code": "data=stdlib", "prose": ["data=english"]})
    assert found.corpora == ("code", "prose")
    assert [arm.name for arm in found.on("prose")] == ["rope", "alibi", "none"]
    assert {arm.spec["data"]["source"] for arm in found.on("prose")} == {"english"}
    lines = refused(corpora=["data=stdlib", "data=english"], arms=arms(same=[]))
    assert [line.split(":")[0] for line in lines] == ["arm same on stdlib", "arm same on english"]


def test_one_text_is_not_two_corpora() -> None:
    (line,) = refused(corpora={"code": [], "prose": "data=english", "again": "data=stdlib"})
    assert line.startswith("corpora: code and again are the same")


def test_each_arm_is_composed_once() -> None:
    fake = Fake()
    planned(fake, placebo=True)
    assert fake.composed == 3 and fake.checked == 4


def test_differences_and_copies() -> None:
    spec = Fake().compose([])
    other = with_value(spec, "optim.lr", 1.0)
    assert [str(d) for d in spec_differences(spec, other)] == ["optim.lr: 0.003 -> 1.0"]
    assert spec["optim"]["lr"] == 3e-3 and other["model"] is spec["model"]
    with pytest.raises(KeyError, match="optim has no 'rate'"):
        with_value(spec, "optim.rate", 1.0)
    same = Fake().compose([])
    same["model"] |= {
        "variants": {
            "a": {
                f: same["model"][f] for f in ("norm", "placement", "topology", "position", "attention", "ffn")
            }
        },
        "pattern": ["a"],
    }
    assert spec_differences(spec, same) == []
    assert "model.pattern" not in flatten(same)
