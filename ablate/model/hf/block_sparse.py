"""The decoder of MiniMax-M3, whose attention chooses blocks of keys."""

from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    CheckpointFormatError,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import ALWAYS, EPS, HEAD_WIDTH, LAYER, QK_NORM, QK_NORMS, THEIRS, UNTIED
from ablate.model.hf.llama_kin import LLAMA_SIZES, kin
from ablate.model.hf.mixtures import JITTER, LLAMA_ROWS, SPARSE, dense_and_sparse, moe, routed_options
from ablate.model.hf.scored_mixtures import GATE_UP_EXPERTS, without
from ablate.model.hf.tables import GATES_UPS, ONE_EACH, ROPE, SPARSE_LISTED, listed_axis

OFFSET_NORM = {"name": "rmsnorm", "offset": True}
CLAMPED: dict[str, Any] = {"name": "glu", "activation": {"name": "swish"}, "up_offset": 1.0}
SPARSE_ATTENTION = "variants.choosing.attention"


def clamped(at: str) -> list[Option]:
    """The clamp and the slope of a gated MLP."""
    return [
        Option(f"{at}.activation.beta", "swiglu_alpha", 1.702),
        Option(f"{at}.limit", "swiglu_limit", 7.0),
    ]


def grouped(config: dict[str, Any]) -> dict[str, Any]:
    """Without the number of the indexer's heads, which is that of key-value heads."""
    config = dict(config)
    index_heads, kv_heads = config.pop("index_n_heads", 4), config.get("num_key_value_heads", 4)
    if index_heads != kv_heads:
        raise CheckpointFormatError(
            f"index_n_heads is {shown(index_heads)}, and should be num_key_value_heads, {shown(kv_heads)}"
        )
    return config


NORMED_HEADS: dict[str, Any] = {"name": "softmax", "qk_norm": OFFSET_NORM, "qk_norm_over": "head"}
_MIXTURE = moe("sigmoid", expert=CLAMPED, shared_expert=CLAMPED, shared=1)
MINIMAX_M3 = kin(
    "minimax_m3_vl_text",
    "MiniMaxM3VLForCausalLM",
    always={
        **ALWAYS,
        "norm": OFFSET_NORM,
        "position": {"name": "rope"},
        "attention": NORMED_HEADS,
        "variants": {
            **dense_and_sparse(_MIXTURE),
            "dense": {"ffn": CLAMPED},
            "whole": {},
            "choosing": {"attention": {**NORMED_HEADS, "name": "block_sparse", "index_norm": OFFSET_NORM}},
        },
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS, QK_NORM, UNTIED),
        *without(routed_options(SPARSE, "num_local_experts", width="intermediate_size"), "hidden_act"),
        Option(f"{SPARSE}.routed_scale", "routed_scaling_factor", 2.0),
        Option(f"{SPARSE}.shared_expert.width", "shared_intermediate_size", 3072),
        Option("variants.dense.ffn.width", "dense_intermediate_size", 12288),
        *(*clamped("variants.dense.ffn"), *clamped(f"{SPARSE}.expert"), *clamped(f"{SPARSE}.shared_expert")),
        Option(f"{SPARSE_ATTENTION}.kv_heads", "num_key_value_heads", 4),
        Option(f"{SPARSE_ATTENTION}.qk_norm.eps", "rms_norm_eps", 1e-6),
        Option(f"{SPARSE_ATTENTION}.index_norm.eps", "rms_norm_eps", 1e-6),
        Option(f"{SPARSE_ATTENTION}.index_width", "index_head_dim", 128),
        Option(f"{SPARSE_ATTENTION}.block", "index_block_size", 128),
        Option(f"{SPARSE_ATTENTION}.top_blocks", "index_topk_blocks", 16),
        Option(f"{SPARSE_ATTENTION}.local_blocks", "index_local_blocks", 1),
    ],
    rows=[
        *(*LLAMA_ROWS, *QK_NORMS),
        *linear_rows(f"{LAYER}.attention.indexer.q", f"{THEIRS}.self_attn.indexer.q_proj"),
        *linear_rows(f"{LAYER}.attention.indexer.k", f"{THEIRS}.self_attn.indexer.k_proj"),
        *linear_rows(f"{LAYER}.attention.indexer.q_norm", f"{THEIRS}.self_attn.indexer.q_norm"),
        *linear_rows(f"{LAYER}.attention.indexer.k_norm", f"{THEIRS}.self_attn.indexer.k_norm"),
        Row(
            (f"{LAYER}.ffn.gate.weight", f"{LAYER}.ffn.up.weight"),
            f"{THEIRS}.mlp.gate_up_proj.weight",
            STACKED,
        ),
        *linear_rows(f"{LAYER}.ffn.down", f"{THEIRS}.mlp.down_proj"),
        *linear_rows(f"{LAYER}.ffn.router", f"{THEIRS}.mlp.gate"),
        Row((f"{LAYER}.ffn.bias",), f"{THEIRS}.mlp.gate.e_score_correction_bias", SAME),
        Row(tuple(f"{n}.weight" for n in GATE_UP_EXPERTS), f"{THEIRS}.mlp.experts.gate_up_proj", GATES_UPS),
        Row((f"{LAYER}.ffn.experts.{{e}}.down.weight",), f"{THEIRS}.mlp.experts.down_proj", ONE_EACH),
        Row(
            (f"{LAYER}.ffn.shared.0.gate.weight", f"{LAYER}.ffn.shared.0.up.weight"),
            f"{THEIRS}.mlp.shared_experts.gate_up_proj.weight",
            STACKED,
        ),
        *linear_rows(f"{LAYER}.ffn.shared.0.down", f"{THEIRS}.mlp.shared_experts.down_proj"),
    ],
    axes=(
        SPARSE_LISTED,
        listed_axis(
            "layer_types",
            {"full_attention": "whole", "minimax_m3_sparse": "choosing"},
            lambda layer: "choosing" if layer["attention"]["name"] == "block_sparse" else "whole",
            lambda n, config: "full_attention",
        ),
    ),
    unpack=grouped,
    pack=lambda config: {**config, "index_n_heads": config["num_key_value_heads"]},
    must={"hidden_act": ("silu",)},
    harmless=(*JITTER, "rotary_dim"),
    theta=5e6,
)
