"""MPT: ALiBi, and no bias anywhere, norms included."""

from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)

_LAYER = "layers.{n}"
_THEIRS = "transformer.blocks.{n}"
_QKV = tuple(f"{_LAYER}.attention.{name}" for name in ("q", "k", "v"))
INSIDE = ("alibi", "alibi_bias_max", "attn_type", "clip_qkv", "prefix_lm", "qk_ln", "softmax_scale")


def unpack(config: dict[str, Any]) -> dict[str, Any]:
    """`attn_config` made flat; the rest of it changes nothing in evaluation."""
    inside = config.get("attn_config") or {}
    if not isinstance(inside, dict):
        raise CheckpointFormatError(f"attn_config is {shown(inside)}, and should be an object")
    flat = {key: inside[key] for key in INSIDE if key in inside}
    return {**{key: value for key, value in config.items() if key != "attn_config"}, **flat}


def pack(config: dict[str, Any]) -> dict[str, Any]:
    """Put the keys of attention into MPT's inner mapping, for an export."""
    inside = {key: config[key] for key in INSIDE if key in config}
    return {**{key: value for key, value in config.items() if key not in INSIDE}, "attn_config": inside}


MPT = Family(
    name="mpt",
    architecture="MptForCausalLM",
    always={
        "norm": {"name": "layernorm", "bias": False},
        "placement": "pre",
        "topology": "serial",
        "position": {"name": "alibi", "max_slope_exponent": 8.0},
        "attention": {"name": "softmax"},
        "ffn": {"name": "mlp", "activation": {"name": "gelu", "form": "exact"}},
    },
    options=[
        Option("width", "d_model", 2048),
        Option("depth", "n_layers", 24),
        Option("heads", "n_heads", 16),
        Option("context", "max_seq_len", 2048),
        Option("vocab", "vocab_size", 50368),
        Option("norm.eps", "layer_norm_epsilon", 1e-5),
        Option("attention.scale", "softmax_scale", None),
        Option("attention.clip_qkv", "clip_qkv", None),
        Option("head.tied", "tie_word_embeddings", True),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.wte.weight", SAME),
        *linear_rows(f"{_LAYER}.attention_residual.input_norm", f"{_THEIRS}.norm_1"),
        *linear_rows(_QKV, f"{_THEIRS}.attn.Wqkv", STACKED),
        *linear_rows(f"{_LAYER}.attention.out", f"{_THEIRS}.attn.out_proj"),
        *linear_rows(f"{_LAYER}.ffn_residual.input_norm", f"{_THEIRS}.norm_2"),
        *linear_rows(f"{_LAYER}.ffn.up", f"{_THEIRS}.ffn.up_proj"),
        *linear_rows(f"{_LAYER}.ffn.down", f"{_THEIRS}.ffn.down_proj"),
        *linear_rows("final_norm", "transformer.norm_f"),
        Row(("head.weight",), "lm_head.weight", SAME),
    ],
    prefix="transformer.",
    must={
        "alibi_bias_max": (8,),  # transformers knows no other, whatever the config says
        "expansion_ratio": (4,),  # likewise
        "alibi": (True,),
        "attn_type": ("multihead_attention",),
        "prefix_lm": (False,),
        "qk_ln": (False,),
        "no_bias": (True,),
        "logit_scale": (None,),
    },
    harmless=(
        *("emb_pdrop", "resid_pdrop", "embedding_fraction", "init_config", "init_device", "learned_pos_emb"),
        *("norm_type", "verbose", "tokenizer_name"),
    ),
    unpack=unpack,
    pack=pack,
    nested=("attn_config",),
)
