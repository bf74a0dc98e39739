"""The identity of a specification, and what is said of one that is wrong."""

from typing import Any

import pytest
import torch
from conftest import SMALL
from pydantic import ValidationError

from ablate.explain import explain
from ablate.model.decoder import Decoder
from ablate.parts.base import IncompatibleParts
from ablate.registry import registries
from ablate.spec import RunSpec, digest
from ablate.train.settings import Settings

NODE: dict[str, Any] = {
    "model": SMALL,
    "data": {"source": "stdlib", "tokenizer": "bytes"},
    "optim": "adamw",
    "schedule": "cosine",
    "budget": {"tokens": 4800, "batch_tokens": 48},  # 100 steps
    "evaluation": {},
    "seed": 0,
}
TEXT = {"source": "t"}
SOFTMAX = {"name": "softmax", "kv_heads": 2}


def spec(model: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
    return RunSpec.model_validate({**NODE, "model": {**SMALL, **(model or {})}, **changes})


def attention(**options: Any) -> dict[str, Any]:
    return {"attention": {**SOFTMAX, **options}}


def glu(**options: Any) -> dict[str, Any]:
    return {"ffn": {"name": "glu", **options}}


EXPERTS = {"name": "moe", "experts": 4}
PLAIN = {"name": "glu", "activation": "silu"}

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "order of biases": (attention(bias=["k", "q"]), attention(bias=["q", "k"])),
    "a bias twice": (attention(bias=["q", "q"]), attention(bias=["q"])),
    "biases of the feed-forward": (glu(bias=["down", "gate"]), glu(bias=["gate", "down"])),
    "as many heads": (attention(kv_heads=4), attention(kv_heads=None)),
    "the width of a head": ({"head_width": 8}, {}),
    "the scale": (attention(scale=8**-0.5), attention()),
    "the width by the rule": (glu(width=85), glu()),
    "a rule without effect": (glu(width=40, ratio=2.0, multiple_of=8), glu(width=40)),
    "of an mlp": ({"ffn": {"name": "mlp", "width": 128}}, {"ffn": "mlp"}),
    "inside experts": (
        {"ffn": {**EXPERTS, "expert": {**PLAIN, "width": 85}}},
        {"ffn": {**EXPERTS, "expert": PLAIN}},
    ),
    "inside a variant": (
        {"variants": {"a": attention(bias=["v", "k"]), "b": {}}, "pattern": ["a", "b"]},
        {"variants": {"x": attention(bias=["k", "v"]), "b": {}}, "pattern": ["x", "b"]},
    ),
    "a pattern of what is common": ({"variants": {"a": {}}, "pattern": ["a"]}, {}),
    "the scale of the embedding": (
        {"width": 64, "embedding": {"norm": "none", "scale": 8.0}},
        {"width": 64, "embedding": {"norm": "none", "scale": "sqrt_width"}},
    ),
}


@pytest.mark.parametrize(("said", "plain"), SAME.values(), ids=SAME.keys())
def test_the_same_model_said_otherwise_is_the_same_run(said, plain):
    assert spec(said).id(TEXT) == spec(plain).id(TEXT)


OTHER = [
    attention(bias=["q"]),
    attention(kv_heads=4),
    attention(kv_heads=1),
    attention(scale=0.25),
    glu(width=84),
    glu(width=40),
    glu(),
    glu(ratio=2.0),
    {"head_width": 16},
    {"variants": {"a": attention(window=4)}, "pattern": ["a"]},
    {"variants": {"a": attention(window=4), "b": {}}, "pattern": ["a", "b"]},
]


def test_other_models_are_other_runs():
    assert len({spec(model).id(TEXT) for model in OTHER}) == len(OTHER)


def test_what_is_plain_keeps_its_id():
    """As it was before there was a canonical form of models: what is left out of the hash are defaults."""
    for model in ({}, *(plain for _, plain in SAME.values())):
        whole = spec(model).model_dump(mode="json", exclude_defaults=True)
        if whole["model"].pop("pattern", None):
            del whole["model"]["variants"]
            layers = spec(model).model.layers()
            whole["model"]["layers"] = [x.model_dump(mode="json", exclude_defaults=True) for x in layers]
        assert spec(model).id(TEXT) == digest({**whole, "data": {**whole["data"], **TEXT}})


@pytest.mark.parametrize("field", ["width", "depth", "heads", "head_width", "context", "vocab"])
def test_what_is_larger_than_any_model_is_a_slip(field):
    (line,) = said(model={**SMALL, field: 10**9})
    assert line.startswith(f"model.{field}: Input should be less than or equal to ")


@pytest.mark.parametrize("experts", [{"experts": 10**9}, {"experts": 4, "shared": 10**9}])
def test_more_experts_than_can_be_built_are_refused(experts):
    (line,) = said(model={**SMALL, "ffn": {"name": "moe", **experts}})
    assert "experts in each of 3 layers; more than 131072 in all cannot be built" in line


@pytest.mark.parametrize("ffn", [{"width": 10**15}, {"ratio": 1e300}])
def test_a_tensor_that_cannot_be_counted_is_refused(ffn):
    with torch.device("meta"), pytest.raises(IncompatibleParts, match="a tensor of the model is too large"):
        Decoder(spec({"width": 2**16, "ffn": {"name": "glu", **ffn}}).model)


def said(**changes: Any) -> list[str]:
    with pytest.raises(ValidationError) as error:
        RunSpec.model_validate({**NODE, **changes})
    return explain(error.value)


@pytest.mark.parametrize("value", ["010", 1.0, True, "many", -1, None])
def test_a_seed_that_is_no_whole_number_is_told_what_to_type(value):
    shown = f"(got {value!r})"
    line = "seed: needs a whole number, 0 or more, in digits alone and with no 0 before them, as in seed=3 "
    assert said(seed=value) == [line + shown]


def test_true_is_no_number():
    budget = NODE["budget"]
    assert said(budget={**budget, "tokens": True}) == [
        "budget.tokens: needs a number, not true or false (got True)"
    ]
    assert said(optim={"name": "adamw", "lr": True}) == [
        "optim.lr: needs a number, not true or false (got True)"
    ]
    assert said(clip=False) == ["clip: needs a number, not true or false (got False)"]
    assert Settings(cuda_graph=True).cuda_graph is True


@pytest.mark.parametrize(
    ("warmup", "line"),
    [
        (
            100.0,
            "schedule.warmup: Input should be a valid integer, or less than 1; as an integer it is 100 "
            "(got 100.0)",
        ),
        (1.5, "schedule.warmup: Input should be a valid integer, or less than 1 (got 1.5)"),
        (-1, "schedule.warmup: Input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_a_value_of_none_of_several_types_is_one_line(warmup, line):
    assert said(schedule={"name": "cosine", "warmup": warmup}) == [line]


def test_several_such_values_are_a_line_each():
    with pytest.raises(ValidationError) as error:
        Settings.model_validate({"devices": 0, "cuda_graph": "maybe", "threads": 0})
    lines = explain(error.value)
    assert [line.split(":")[0] for line in lines] == ["devices", "cuda_graph", "threads"]
    assert lines[0] == "devices: Input should be greater than 0, or 'auto' (got 0)"


@pytest.mark.parametrize("name", list(registries["schedule"]))
@pytest.mark.parametrize("warmup", [100, 100_000, 0.999])
def test_a_warmup_as_long_as_the_run_is_refused(name, warmup):
    (line,) = said(schedule={"name": name, "warmup": warmup})
    assert line.startswith(
        f"schedule.warmup {warmup} takes {warmup if warmup > 1 else 100} of the run's 100 steps"
    )
    RunSpec.model_validate({**NODE, "schedule": {"name": name, "warmup": 99}})


def test_text_that_yaml_takes_for_something_else_is_told():
    assert said(data={**NODE["data"], "source": {"name": "text", "files": ["a"], "field": True}}) == [
        "data.source.field: YAML reads this as True, and not as text; put it in double quotes"
    ]
