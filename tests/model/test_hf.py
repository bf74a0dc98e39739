"""Weights in and out give the logits of transformers, whose own reading and writing is the other map."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from safetensors.torch import load_file, save_file
from support.tiny_families import TINY
from support.tiny_families import TINY as OF_TABLES

from ablate.cli.models_table import PAGE, composed
from ablate.cli.zoo_lacks import ALIASES
from ablate.model.decoder import Decoder
from ablate.model.hf import FAMILIES, CheckpointFormatError, ExportError, export_folder, import_folder
from ablate.model.hf.canonical import canonical
from ablate.model.hf.config import blockers, read_config

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LONG = {"max_position_embeddings": 24, "intermediate_size": 40, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {**SHAPE, **LONG, "num_key_value_heads": 2}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def scaled(**scaling: Any) -> dict[str, Any]:
    return {**LLAMA, "rope_parameters": {"rope_theta": 5000.0, **scaling}}


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": 50, "n_positions": 24, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gpt2_wide": (
        "gpt2",
        {"vocab_size": 50, "n_positions": 24, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_inner": 48}
        | {"activation_function": "relu", "tie_word_embeddings": False},
    ),
    "llama": ("llama", LLAMA),
    "llama_biases": (
        "llama",
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama_wide_heads": ("llama", {**LLAMA, "head_dim": 16, "num_key_value_heads": 1}),
    "llama3": (
        "llama",
        scaled(**LLAMA3, original_max_position_embeddings=12),
    ),
    "llama3_outside": ("llama", scaled(**LLAMA3) | {"original_max_position_embeddings": 16}),
    "llama_linear": ("llama", scaled(rope_type="linear", factor=4.0)),
    "llama_yarn": (
        "llama",
        scaled(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=6, beta_fast=2.0, beta_slow=0.1
        ),
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 7}),
    "mistral_whole": ("mistral", {**LLAMA, "sliding_window": None}),
    "mixtral": ("mixtral", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "falcon": ("falcon", {**SHAPE, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 0}),
    "falcon_biases": ("falcon", {**SHAPE, "bias": True, "ffn_hidden_size": 48, "tie_word_embeddings": False}),
    "mpt": ("mpt", {"vocab_size": 50, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 24}),
    "mpt_six_heads": (
        "mpt",
        {
            "vocab_size": 50,
            "d_model": 48,
            "n_layers": 2,
            "n_heads": 6,
            "max_seq_len": 24,
        }
        | {"attn_config": {"softmax_scale": 0.3, "alibi_bias_max": 8}},
    ),
    "gemma": ("gemma", {**LLAMA, "num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": (
        "gemma2",
        {**LLAMA, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "olmo": ("olmo", {**LLAMA, "pad_token_id": 0, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {**LLAMA, "pad_token_id": 0}),
    "qwen2": ("qwen2", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2_windows": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 16}),
    "gpt_neox": ("gpt_neox", {**SHAPE, **LONG, "rope_parameters": {"partial_rotary_factor": 0.5}}),
    "gpt_neox_serial": (
        "gpt_neox",
        {**SHAPE, **LONG, "use_parallel_residual": False, "attention_bias": False},
    ),
    "phi": ("phi", {**SHAPE, **LONG}),
}
each = pytest.mark.parametrize("name", CONFIGS)


def theirs(name: str) -> Any:
    """A small model of transformers, every parameter random: biases and norms too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, options = CONFIGS[name]
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options), attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in m.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return m.eval()


def logits(m: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return m(tokens, use_cache=False).logits


def ours(folder: Path) -> Decoder:
    spec, state = import_folder(folder)
    decoder = Decoder(spec)
    decoder.load_state_dict(state)
    return decoder.eval()


@each
def test_logits_are_those_of_transformers_both_ways(name, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    m = theirs(name)
    m.save_pretrained(tmp_path / "in")
    decoder = ours(tmp_path / "in")
    with torch.no_grad():
        mine = decoder(tokens)
    assert mine.std() > 0.1  # logits that say something
    torch.testing.assert_close(mine, logits(m, tokens), atol=1e-4, rtol=0)

    export_folder(decoder, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(logits(back, tokens), mine, atol=1e-4, rtol=0)
    assert {k: v.shape for k, v in back.state_dict().items()} == {
        k: v.shape for k, v in m.state_dict().items()
    }


def test_every_family_is_held_to_transformers_and_on_the_page():
    kinds = {kind for kind, _ in CONFIGS.values()}
    by_table = {ALIASES.get(kind, kind) for kind, _ in OF_TABLES.values()}
    assert kinds | {kind for kind, _ in TINY.values()} | by_table >= set(FAMILIES)
    page = PAGE.read_text()
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


@each
def test_a_config_survives_the_round(name, tmp_path):
    m = theirs(name)
    m.config.save_pretrained(tmp_path)
    family = FAMILIES[CONFIGS[name][0]]
    spec = read_config(json.loads((tmp_path / "config.json").read_text()), family)
    assert blockers(spec, family) == []


# ---------------------------------------------------------------- published configs, as the hub has them

OLD = {
    "torch_dtype": "bfloat16",
    "transformers_version": "4.30.0",
    "use_cache": True,
    "initializer_range": 0.02,
}
HUB: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
    }
    | {
        "n_layer": 12,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-05,
        "vocab_size": 50257,
        "attn_pdrop": 0.1,
    },
    "llama2_7b": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
    }
    | {
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
    }
    | {"num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None}
    | {"tie_word_embeddings": False},
    "llama3_8b": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
    }
    | {
        "attention_bias": False,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "vocab_size": 128256,
    }
    | {"num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0}
    | {"tie_word_embeddings": False},
    "mistral_7b": {"model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "vocab_size": 32000}
    | {"intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32}
    | {"num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0}
    | {"sliding_window": 4096, "tie_word_embeddings": False},
    "mixtral_8x7b": {"model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096, "vocab_size": 32000}
    | {"intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32}
    | {"num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8}
    | {"output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None}
    | {"router_aux_loss_coef": 0.02, "tie_word_embeddings": False},
    "falcon_7b": {
        "model_type": "falcon",
        "alibi": False,
        "bias": False,
        "hidden_size": 4544,
        "vocab_size": 65024,
    }
    | {"apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0, "layer_norm_epsilon": 1e-05}
    | {
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "parallel_attn": True,
    }
    | {"num_hidden_layers": 32},
    "gemma_2b": {"model_type": "gemma", "attention_bias": False, "head_dim": 256, "hidden_act": "gelu"}
    | {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-06,
    }
    | {"num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "rope_theta": 10000.0}
    | {"rope_scaling": None, "vocab_size": 256000},
    "olmo_1b": {"model_type": "olmo", "attention_bias": False, "clip_qkv": None, "hidden_act": "silu"}
    | {"hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 2048, "vocab_size": 50304}
    | {"num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 16, "rope_theta": 10000.0}
    | {"tie_word_embeddings": True},
    "qwen2_5_0_5b": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
    }
    | {
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "vocab_size": 151936,
    }
    | {"num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0}
    | {"sliding_window": 32768, "tie_word_embeddings": True, "use_sliding_window": False},
    "pythia_160m": {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
    }
    | {
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 12,
        "vocab_size": 50304,
    }
    | {"num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False}
    | {"use_parallel_residual": True},
    "mpt_7b": {
        "model_type": "mpt",
        "d_model": 4096,
        "expansion_ratio": 4,
        "learned_pos_emb": True,
        "n_heads": 32,
    }
    | {
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
            "attn_impl": "torch",
            "clip_qkv": None,
            "qk_ln": False,
        }
    }
    | {"max_seq_len": 2048, "n_layers": 32, "no_bias": True, "norm_type": "low_precision_layernorm"}
    | {"vocab_size": 50432, "logit_scale": None},
}


@pytest.mark.parametrize("name", HUB)
def test_a_published_config_is_the_preset(name):
    config = OLD | HUB[name]
    assert canonical(read_config(config, FAMILIES[config["model_type"]])) == canonical(composed(name))


@pytest.mark.parametrize("name", ["gpt2_xl", "llama1_65b", "llama2_70b", "llama3_70b"])
def test_other_presets_have_a_family(name):
    family = FAMILIES["gpt2" if name.startswith("gpt2") else "llama"]
    assert blockers(composed(name), family) == []


# ------------------------------------------------------------------------------ files as they are found


def saved(name: str, folder: Path, **options: Any) -> Path:
    theirs(name).save_pretrained(folder, **options)
    return folder


def edit(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)


def test_shards_are_read(tokens, tmp_path):
    whole, shards = (
        saved("llama", tmp_path / "whole"),
        saved("llama", tmp_path / "shards", max_shard_size="20KB"),
    )
    assert len(list(shards.glob("*.safetensors"))) > 2
    with torch.no_grad():
        assert torch.equal(ours(whole)(tokens), ours(shards)(tokens))
    sorted(shards.glob("*.safetensors"))[1].unlink()
    with pytest.raises(
        CheckpointFormatError, match=r"named by model\.safetensors\.index\.json, is not there"
    ):
        import_folder(shards)


def test_names_without_prefix_and_with_constants(tokens, tmp_path):
    """As the first GPT-2 files: no `transformer.`, and the causal mask beside the weights."""
    folder = saved("gpt2", tmp_path)
    with torch.no_grad():
        expected = ours(folder)(tokens)
    bare = lambda tensors: {k.removeprefix("transformer."): v for k, v in tensors.items()}  # noqa: E731
    rewrite(folder, lambda tensors: bare(tensors) | {"h.0.attn.bias": torch.ones(1, 1, 24, 24)})
    with torch.no_grad():
        assert torch.equal(ours(folder)(tokens), expected)


def test_a_tied_head_may_be_stored_if_it_is_the_table(tmp_path):
    folder = saved("falcon", tmp_path)
    table = "transformer.word_embeddings.weight"
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors[table].clone()})
    assert "head.weight" not in import_folder(folder)[1]
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors[table] + 1})
    with pytest.raises(CheckpointFormatError, match=r"lm_head\.weight is not the embedding"):
        import_folder(folder)


def test_dtype_is_kept(tmp_path):
    theirs("llama").to(torch.bfloat16).save_pretrained(tmp_path / "in")
    spec, state = import_folder(tmp_path / "in")
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    decoder = Decoder(spec).to(torch.bfloat16)
    decoder.load_state_dict(state)
    export_folder(decoder, tmp_path / "out", end=3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dtype"], config["eos_token_id"]) == ("bfloat16", 3)


def test_pickles_are_refused(tmp_path):
    folder = saved("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointFormatError, match=r"holds no \*\.safetensors"):
        import_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointFormatError, match=r"pytorch_model\.bin is pickled.*any code"):
        import_folder(folder)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", b"[]", "config.json holds no JSON object"),
        ("config.json", b'{"model_type": ', "config.json is not JSON"),
        ("config.json", b"\xff", "config.json is not JSON"),
        ("model.safetensors.index.json", b"{}", "index.json has no weight_map"),
        ("model.safetensors", None, "model.safetensors is damaged"),
    ],
)
def test_a_damaged_file_is_named(file, content, reason, tmp_path):
    folder = saved("llama", tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / file).write_bytes(whole[:-100] if content is None else content)
    with pytest.raises(CheckpointFormatError, match=reason):
        import_folder(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up" not in k},
            "mlp.up_proj.weight is missing",
        ),
        (
            lambda t: t | {"model.layers.0.extra.weight": torch.ones(2)},
            "no place for model.layers.0.extra.weight",
        ),
        (lambda t: t | {"model.norm.weight": torch.ones(31)}, r"the shape \(31,\); the config says \(32,\)"),
    ],
)
def test_a_folder_must_be_whole(change, reason, tmp_path):
    folder = saved("llama", tmp_path)
    rewrite(folder, change)
    with pytest.raises(CheckpointFormatError, match=reason):
        import_folder(folder)


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        ("llama", {"model_type": "zamba"}, "model_type 'zamba' has no table; there are llama"),
        ("llama", {"novelty": 2}, "unknown novelty"),
        ("llama", {"hidden_act": "mish"}, "activation 'mish' is not among ours"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "position.rotary_fraction",
        ),
        ("llama", {"quantization_config": {"bits": 4}}, "unknown quantization_config"),
        ("falcon", {"new_decoder_architecture": True}, "new_decoder_architecture is True"),
        ("mpt", {"attn_config": {"alibi_bias_max": 4}}, "alibi_bias_max is 4"),
        ("mpt", {"expansion_ratio": 2}, "expansion_ratio is 2"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_options_cannot_mean_is_refused(name, keys, reason, tmp_path):
    folder = saved(name, tmp_path)
    edit(folder, **keys)
    with pytest.raises(CheckpointFormatError, match=reason):
        import_folder(folder)


# ------------------------------------------------------------------------------------------ exports

SWIGLU = {"name": "glu", "width": 24, "activation": "silu"}


def started(**options: Any) -> Decoder:
    """A small LLaMA, but for what is said."""
    return Decoder(small(**{"ffn": SWIGLU, **options})).init_parameters(0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"position": "t5"}, "position is 't5'"),
        ({"placement": "post"}, "placement is 'post'"),
        ({"attention": {"name": "softmax", "sink_logit": True}}, "attention.sink_logit is True"),
        ({"attention": {"name": "softmax", "window": 5, "sink_tokens": 1}}, "attention.sink_tokens is 1"),
        ({"attention": {"name": "softmax", "mask": "prefix"}}, "attention.mask is 'prefix'"),
        ({"position": {"name": "rope", "scaling": "ntk"}}, "position.scaling is 'ntk'"),
        (
            {"position": {"name": "rope", "scaling": {"name": "yarn", "trained": None, "factor": 5.0}}},
            "trained is 4.8",
        ),
        ({"head": {"bias": True}}, "head.bias is True"),
        ({"embedding": {"scale": 2.0, "norm": "none"}}, "embedding.scale is 2.0"),
        ({"ffn": {"name": "glu", "activation": "identity"}}, "ffn.activation identity has no name"),
        (
            {"variants": {"a": {"ffn": {"width": 48}}, "b": {}}, "pattern": ["b", "a"]},
            "ffn.width is 48",
        ),
        (
            {"norm": {"name": "rmsnorm", "eps": 0.5}, "variants": {"a": {"norm": {"eps": 1e-6}}}}
            | {"pattern": ["a"]},
            "final_norm.eps is 0.5",
        ),
    ],
)
def test_what_no_family_expresses_says_which_option(options, reason, tmp_path):
    decoder = started(**options)
    with pytest.raises(ExportError, match=reason):
        export_folder(decoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_named_family_says_what_is_in_its_way(tmp_path):
    decoder = started()
    with pytest.raises(ExportError, match=r"gpt2: .*norm is 'rmsnorm' \(gpt2: 'layernorm'\)"):
        export_folder(decoder, tmp_path / "out", family="gpt2")
    with pytest.raises(ExportError, match="no family is called 'nonesuch'; there are llama"):
        export_folder(decoder, tmp_path / "out", family="nonesuch")


def test_what_only_training_sees_is_in_no_ones_way(tmp_path):
    moe = {
        "name": "moe",
        "experts": 4,
        "balance_loss_weight": 0.5,
        "capacity_factor": 1.25,
        "expert": SWIGLU,
    }
    decoder = Decoder(
        small(ffn=moe, dropout=0.1, init="xavier", head={"z_loss": 0.1, "tied": False})
    ).init_parameters(0)
    assert export_folder(decoder, tmp_path / "out") == "mixtral"


def test_a_selection_bias_that_acts_is_refused(tmp_path):
    moe = {"name": "moe", "experts": 4, "bias_update_rate": 0.1, "expert": SWIGLU}
    decoder = started(ffn=moe)
    decoder.layers[1].ffn.bias[2] = 0.1
    with pytest.raises(ExportError, match=r"mixtral has no tensor for layers\.1\.ffn\.bias"):
        export_folder(decoder, tmp_path / "out")


def test_a_folder_is_never_overwritten(tmp_path):
    decoder = started()
    (tmp_path / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        export_folder(decoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_transformers_is_not_needed():
    import subprocess
    import sys

    code = "import sys, ablate.model.hf; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
