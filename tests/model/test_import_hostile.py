"""Folders that are damaged, or made to do harm: an import refuses them with a line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hf import CONFIGS, LLAMA, edit, logits, ours, rewrite, saved, theirs

from ablate.__main__ import main
from ablate.model.hf import CheckpointFormatError, import_folder

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    return saved("llama", tmp_path / "llama")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointFormatError) as refused:
        import_folder(folder)
    return str(refused.value)


def index(folder: Path, where: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


# ------------------------------------------------------------------------------------------- the tensors


def test_a_tensor_in_two_files_is_refused(folder):
    state = load_file(folder / "model.safetensors")
    save_file({NAME: state[NAME] + 1}, folder / "z.safetensors")
    assert f"{NAME} stands in model.safetensors and in z.safetensors" in refusal(folder)
    index(folder, dict.fromkeys(state, "model.safetensors"))
    assert f"{NAME} stands in model.safetensors and in z.safetensors" in refusal(folder)


def test_the_format_of_mistral_itself_may_lie_beside(folder, tokens):
    with torch.no_grad():
        expected = ours(folder)(tokens)
    save_file({"tok_embeddings.weight": torch.ones(2)}, folder / "consolidated.safetensors")
    with torch.no_grad():
        assert torch.equal(ours(folder)(tokens), expected)


@pytest.mark.parametrize(
    ("dtype", "called"),
    [(torch.int64, "I64"), (torch.bool, "BOOL"), (torch.complex64, "C64"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_weights_that_are_no_plain_numbers_are_refused(dtype, called, folder):
    rewrite(folder, lambda tensors: tensors | {NAME: tensors[NAME].to(dtype)})
    assert f"{NAME} is of type '{called}'" in refusal(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(number, folder):
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[NAME][3, 4] = number
        return tensors

    rewrite(folder, spoil)
    assert f"{NAME} holds 1 numbers that are not finite" in refusal(folder)


@pytest.mark.parametrize(
    "value", [3, None, ["a"], {"a": 1}, "", "..", "../llama/model.safetensors", "/dev/zero"]
)
def test_an_index_names_files_beside_it(value, folder):
    index(folder, {NAME: value})
    assert "is no name of a file beside it" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file_is_not_read(name, kind, folder):
    (folder / name).unlink(missing_ok=True)
    if kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    assert f"{name} is no regular file" in refusal(folder)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "gpt2", "falcon", "olmo", "mpt"])
def test_a_tied_head_stands_for_the_table(name, tokens, tmp_path):
    """As `safetensors.torch.save_model` leaves it."""
    from safetensors.torch import save_model
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers import logging as their_logging

    their_logging.disable_progress_bar()
    kind, options = {"llama": ("llama", LLAMA)}.get(name) or CONFIGS[name]
    options = {**options, "tie_word_embeddings": True}
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options), attn_implementation="eager")
    m.eval().config.save_pretrained(tmp_path)
    save_model(m, str(tmp_path / "model.safetensors"))
    names = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" in names and len(names) == len(m.state_dict()) - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(tmp_path)(tokens), logits(m, tokens), atol=1e-5, rtol=1e-5)
    edit(tmp_path, tie_word_embeddings=False)
    assert "is missing" in refusal(tmp_path)


# -------------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"model_type": ["llama"]}, "model_type ['llama'] has no table"),
        ({"model_type": {}}, "model_type {} has no table"),
        ({"model_type": 3}, "model_type 3 has no table"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776, more than any model has"),
        ({"hidden_size": "32"}, "hidden_size is '32', and should be a number"),
        ({"hidden_size": True}, "hidden_size is True, and should be a number"),
        ({"hidden_size": 10**9}, "width: Input should be less than or equal to 1048576"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, more than any model has (100000)"),
        ({"num_hidden_layers": 1000}, "the config says 1000 layers; the files hold"),
        (
            {"num_attention_heads": 10**9, "head_dim": 2, "num_key_value_heads": 1},
            "heads: Input should be less than or equal to 1048576",
        ),
        ({"vocab_size": 10**9}, "vocab: Input should be less than or equal to 268435456"),
        ({"intermediate_size": 10**9}, "ffn.width 1000000000"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6', and should be a number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', and should be true or false"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], and should be an object"),
        ({"rope_parameters": {"rope_type": {}}}, "rope_type {} is not among ours"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "4"}}, "'4' should be a number"),
        ({"hidden_act": ["silu"]}, "hidden_act is ['silu'], and should be a text"),
        ({"\x1b[31mred\x07": 1, "\u202eevil": 2}, "unknown \\x1b[31mred\\x07, \\u202eevil"),
        ({"hidden_act": "\x1b[2J"}, "activation '\\x1b[2J' is not among ours"),
        ({"rope_interleaved": True}, "unknown rope_interleaved"),
    ],
)
def test_what_a_config_cannot_mean_is_refused(keys, reason, folder):
    edit(folder, **keys)
    said = refusal(folder)
    assert reason in said and said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        ("mixtral", {"num_local_experts": 10**9}, "num_local_experts is 1000000000, more than any model has"),
        ("gpt2", {"n_positions": 10**9}, "context: Input should be less than or equal to 268435456"),
        ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types is ['chunked_attention'"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, num_hidden_layers 3"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("mpt", {"attn_config": [1]}, "attn_config is [1]"),
    ],
)
def test_what_a_config_of_a_family_cannot_mean_is_refused(name, keys, reason, tmp_path):
    folder = saved(name, tmp_path)
    edit(folder, **keys)
    assert reason in refusal(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": NaN}',
        '{"a": 1' + "0" * 5000 + "}",
        '{"a": -Infinity}',
        "\x00",
    ],
)
def test_json_that_no_program_should_read_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    assert "config.json is not JSON" in refusal(folder)


@pytest.mark.parametrize(
    "keys",
    [
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}},
        {"use_mrope": False, "qk_layernorm": False, "pruned_heads": {}, "quantization_config": None},
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 4096, "tokenizer_class": "X"},
        {"hidden_act": "swish"},
    ],
)
def test_keys_that_change_nothing_pass(keys, folder, tokens):
    expected = logits(theirs("llama"), tokens)
    edit(folder, **keys)
    with torch.no_grad():
        torch.testing.assert_close(ours(folder)(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_python", "gelu_new"]
)
def test_every_name_of_gelu_is_the_form_that_transformers_has(name, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = saved("gpt2", tmp_path)
    edit(folder, activation_function=name)
    expected = logits(
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval(), tokens
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(folder)(tokens), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------- one thing said in two places


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}


def test_rope_scaling_beside_rope_parameters_counts_as_in_transformers(folder, tokens):
    from transformers import AutoModelForCausalLM

    plain = {"rope_type": "default", "rope_theta": 500.0}
    edit(folder, rope_parameters=plain, rope_scaling={**YARN, "rope_theta": 500.0})
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert model.config.rope_parameters["rope_type"] == "yarn"
    with torch.no_grad():
        mine = ours(folder)(tokens)
        torch.testing.assert_close(mine, logits(model, tokens), atol=1e-5, rtol=1e-5)
        edit(folder, rope_scaling=None)
        assert (ours(folder)(tokens) - mine).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (  # transformers takes theta 10000 then, whatever rope_parameters says
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": YARN},
            "rope_theta is 500000.0 in rope_parameters, and transformers",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_scaling": YARN},
            "rope_type is 'linear' in rope_parameters",
        ),
        ({"rope_theta": 7.0}, "rope_theta is 7.0, but transformers reads 10000.0"),
        ({"rotary_emb_base": 7.0}, "rotary_emb_base is 7.0, but transformers reads 10000.0"),
    ],
)
def test_rope_that_is_said_twice_must_agree(keys, reason, folder):
    edit(folder, **keys)
    assert reason in refusal(folder)


@pytest.mark.parametrize(("name", "counts", "other"), [
    ("gemma", "hidden_act", "hidden_activation"), ("gemma2", "hidden_activation", "hidden_act"),
])  # fmt: skip
def test_an_activation_that_is_said_twice_must_agree(name, counts, other, tokens, tmp_path):
    folder = saved(name, tmp_path)
    with torch.no_grad():
        expected = ours(folder)(tokens)
        edit(folder, **{other: "gelu_new"})
        assert torch.equal(ours(folder)(tokens), expected)
    edit(folder, **{other: "relu"})
    assert f"{other} is 'relu', but transformers reads {counts}" in refusal(folder)


def test_a_line_of_the_command_shows_no_terminal_codes(folder, tmp_path, capsys):
    edit(folder, **{"\x1b]0;owned\x07": 1})
    assert main(["import", str(folder), str(tmp_path / "in")]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\\x1b]0;owned" in said and not (tmp_path / "in").exists()
