"""The import hunt: every key of a small config.json is spoiled in turn, and RoPE is written in every style.

An import must give transformers' logits, or refuse with a line. What is silently wrong must be nothing.
"""

import json

import pytest
from support.import_hunt import MODELS, SILENT, Hunted, verdicts

from ablate.cli.zoo_lacks import ALIASES
from ablate.model.hf import FAMILIES, import_spec

QUICK = ("gpt2", "llama3", "qwen2_windows", "gemma3_text", "deepseek_v3", "gemma4_text", "mamba2")


def test_the_hunt_knows_every_family():
    assert {ALIASES.get(kind, kind) for kind, _ in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_silently_wrong(name, tmp_path):
    found = verdicts(name, tmp_path, some=8)
    assert [what for what, outcome in found.items() if outcome in SILENT] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_silently_wrong_wherever_one_looks(name, tmp_path):
    found = verdicts(name, tmp_path)
    assert [what for what, outcome in found.items() if outcome in SILENT] == []


SAID_ELSEWHERE = [  # what hunts by one key alone do not see: the list of layers is left out
    ("cohere2", {"sliding_window_pattern": 3}),
    ("exaone4", {"sliding_window_pattern": 2}),
    ("exaone_moe", {"sliding_window_pattern": 3}),
    ("cohere2_moe", {"sliding_window_pattern": 2}),
    ("gemma3_text", {"sliding_window_pattern": 2}),
    ("afmoe", {"global_attn_every_n_layers": 2}),
]


@pytest.mark.parametrize(("name", "said"), SAID_ELSEWHERE)
def test_each_so_manieth_layer_is_that_of_its_key(name, said, tmp_path):
    hunted = Hunted(name, tmp_path)
    whole = {key: value for key, value in hunted.config.items() if key != "layer_types"}
    assert hunted.judge(whole | said) in (
        "agrees",
        "only we read it",
    )  # of other tensors, transformers may draw
    key = next(iter(said))
    assert hunted.judge(whole | {key: 0}) == hunted.judge(whole | {key: "LLLG"}) == "refused"


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("xglm", {"pad_token_id": 5}),  # the row of zeros in its table of positions
        ("xglm", {"pad_token_id": -4}),
        ("ernie4_5_moe", {"moe_norm_min": 0.9}),
        ("qwen2_moe", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("smollm3", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("gpt_neo", {"attention_layers": ["local", "local", "global"]}),
        ("cohere2_moe", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("dbrx", {"attn_config": {"kv_n_heads": 2, "clip_qkv": 0.6, "rope_theta": 500.0}}),
        ("youtu", {"initializer_range": -1.0}),
    ],
)
def test_what_no_option_means_is_refused(name, spoiled, tmp_path):
    hunted = Hunted(name, tmp_path)
    assert hunted.judge(hunted.config) == "agrees"
    assert hunted.judge(hunted.config | spoiled) == "refused"


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("gpt_neox_japanese", {"num_hidden_layers": None}),
        ("llama4_text", {"floor_scale": None}),
        ("lfm2", {"block_multiple_of": None}),
        ("lfm2", {"intermediate_size": None}),
    ],
)
def test_a_value_of_another_kind_is_a_line(name, spoiled, tmp_path):
    hunted = Hunted(name, tmp_path)
    assert hunted.judge(hunted.config | spoiled) == "refused"


def test_dbrx_turns_with_the_theta_of_its_attention(tmp_path):
    hunted = Hunted("dbrx", tmp_path)
    alone = {key: value for key, value in hunted.config.items() if key != "rope_parameters"}
    alone["attn_config"] = alone["attn_config"] | {"rope_theta": 500_000.0}
    (tmp_path / "config.json").write_text(json.dumps(alone))
    assert import_spec(tmp_path)[1].position.base == 500_000.0
