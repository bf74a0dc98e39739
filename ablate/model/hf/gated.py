"""Families with gates on attention's output, chunks, clips and gates on what experts read."""

from typing import Any

import torch

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    Change,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    shown,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    PRE,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    UNTIED,
    norms,
)
from ablate.model.hf.llama_kin import HEAD_NORMS, LLAMA_SIZES, NOPE_GLOBAL, WINDOW, kin
from ablate.model.hf.llama_layers import LOCAL_ROPES, TWO_ROPES, ropes
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    SPARSE,
    dense_and_sparse,
    moe,
    routed_options,
)
from ablate.model.hf.rotation import OLD, gather
from ablate.model.hf.tables import (
    INTERLEAVED,
    OF_EXPERTS,
    ROPE,
    SPARSE_LISTED,
    activation_option,
    depth_of,
    expert_rows,
    first_dense,
    halves,
    listed_axis,
    size_options,
    sparse_or_dense,
    whole_number,
    windowed,
    windowed_by,
)


def gate_row(theirs: str) -> Row:
    """The projection that makes the gate of attention's output."""
    return Row((f"{LAYER}.attention.gate.weight",), f"{THEIRS}.self_attn.{theirs}.weight", SAME)


AFMOE = kin(
    "afmoe",
    "AfmoeForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "attention": {**HEAD_NORMS, "gate": "channel"},
        "variants": {**NOPE_GLOBAL, **dense_and_sparse(moe("sigmoid"))},
    },
    options=[
        *(*LLAMA_SIZES, ROPE._replace(ours="variants.local.position"), HEAD_WIDTH, UNTIED, WINDOW, *DENSE),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5), ATTENTION_BIAS),
        *routed_options(SPARSE, "num_experts", shared="num_shared_experts", scale="route_scale"),
        Option(
            "embedding.scale",
            "mup_enabled",
            False,
            read=lambda on: "sqrt_width" if on else 1.0,
            write=lambda scale: scale != 1.0,
        ),
    ],
    rows=[
        *(*ENDS, *ATTENTION, *QK_NORMS, *FEED_FORWARD, gate_row("gate_proj")),
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_attention_layernorm",
            ffn_input_norm="pre_mlp_layernorm",
            ffn_output_norm="post_mlp_layernorm",
        ),
        *expert_rows(router="mlp.router.gate", shared="mlp.shared_experts", bias="mlp.expert_bias"),
    ],
    axes=(windowed_by("global_attn_every_n_layers", 4), first_dense("num_dense_layers", 1)),
    harmless=(*JITTER, "num_local_experts"),
)


def laguna(config: dict[str, Any]) -> dict[str, Any]:
    """Heads must be as many in all layers, and a gate is of heads or of channels."""
    config = ropes(full_attention=500_000.0, sliding_attention=10_000.0)["unpack"](config)
    counts = config.pop("num_attention_heads_per_layer", None) or []
    if any(count != config.get("num_attention_heads") for count in counts):
        raise CheckpointFormatError("num_attention_heads_per_layer differs from num_attention_heads")
    gating = config.pop("gating", True)
    if gating not in (True, "per-head", "per-channel", "per-element"):
        raise CheckpointFormatError(f"gating is {shown(gating)}; there are per-head and per-element")
    return {**config, "gate": "head" if gating in (True, "per-head") else "channel"}


def laguna_gating(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the gate by its name, and the heads of each layer."""
    config = ropes(full_attention=500_000.0, sliding_attention=10_000.0)["pack"](config)
    gate, heads = config.pop("gate"), config["num_attention_heads"]
    return {
        **config,
        "gating": "per-head" if gate == "head" else "per-element",
        "num_attention_heads_per_layer": [heads] * config["num_hidden_layers"],
    }


LAGUNA = kin(
    "laguna",
    "LagunaForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "attention": {**HEAD_NORMS, "gate_activation": {"name": "softplus"}},
        "variants": {**TWO_ROPES, **dense_and_sparse(moe("sigmoid", shared=1, shared_expert=GATED_MLP))},
    },
    options=[
        *(*LLAMA_SIZES, *LOCAL_ROPES, HEAD_WIDTH, EPS, QK_NORM, UNTIED, WINDOW, ATTENTION_BIAS, *DENSE),
        Option("attention.gate", "gate", "head"),
        *routed_options(SPARSE, "num_experts", scale="moe_routed_scaling_factor"),
        Option(f"{SPARSE}.shared_expert.width", "shared_expert_intermediate_size"),
        activation_option(f"{SPARSE}.shared_expert"),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION, *QK_NORMS, *FEED_FORWARD, gate_row("g_proj")),
        *expert_rows(shared="mlp.shared_expert", bias="mlp.experts.e_score_correction_bias"),
    ],
    axes=(windowed(lambda n, config: "full_attention"), SPARSE_LISTED),
    unpack=laguna,
    pack=laguna_gating,
    must={"moe_apply_router_weight_on_input": (False,), "moe_router_logit_softcapping": (0.0, 0)},
    harmless=(*JITTER, "num_local_experts"),
)

# --------------------------------------------------------------------------------------- Llama 4


def moe_layers(config: dict[str, Any]) -> list[str]:
    """`moe_layers`, or each so-manieth layer."""
    depth, listed_layers = depth_of(config), config.get("moe_layers")
    if listed_layers is None:
        step = max(1, whole_number(config, "interleave_moe_layer_step", 1))
        listed_layers = list(range(step - 1, depth, step))
    if not isinstance(listed_layers, list):
        raise CheckpointFormatError(f"moe_layers is {shown(listed_layers)}, and should be a list")
    return ["sparse" if n in listed_layers else "dense" for n in range(depth)]


def llama4(config: dict[str, Any]) -> dict[str, Any]:
    """The norm of queries and keys with the eps of all, and no temperature where it is off."""
    config = dict(config)
    name = "rmsnorm" if config.pop("use_qk_norm", True) else "none"
    plain = {"weight": False, "eps": config.get("rms_norm_eps", 1e-5)} if name == "rmsnorm" else {}
    if not config.pop("attn_temperature_tuning", True):
        config["attn_scale"] = 0.0
    return {**config, "qk_norm": {"name": name, **plain}}


def llama4_flags(config: dict[str, Any]) -> dict[str, Any]:
    """Back: two flags."""
    config = dict(config)
    normed = config.pop("qk_norm")["name"] == "rmsnorm"
    return {**config, "use_qk_norm": normed, "attn_temperature_tuning": config["attn_scale"] != 0}


EXPERT = f"{LAYER}.ffn.experts.{{e}}"
LLAMA4 = kin(
    "llama4_text",
    "Llama4ForCausalLM",
    always={
        **ALWAYS,
        "variants": {
            "rope": {
                "position": {"name": "rope", "interleaved": True},
                "attention": {"name": "softmax", "qk_norm_at": "after"},
            },
            "nope": {"position": {"name": "none"}, "attention": {"name": "softmax"}},
            "chunked": {"attention": {"name": "softmax"}},
            "whole": {},
            **dense_and_sparse(moe("sigmoid_all", gate_on="input", shared=1)),
        },
    },
    options=[
        *(
            *LLAMA_SIZES,
            INTERLEAVED._replace(ours="variants.rope.position"),
            HEAD_WIDTH,
            UNTIED,
            ATTENTION_BIAS,
        ),
        *(EPS._replace(default=1e-5), Option("variants.rope.attention.qk_norm", "qk_norm", {})),
        Option("variants.nope.attention.temperature", "attn_scale", 0.1),
        Option("variants.nope.attention.temperature_floor", "floor_scale", 8192, read=int),
        Option("variants.chunked.attention.chunk", "attention_chunk_size", 8192),
        Option("variants.dense.ffn.width", "intermediate_size_mlp"),
        *(
            activation_option("variants.dense.ffn"),
            *routed_options(SPARSE, "num_local_experts", width="intermediate_size"),
        ),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION),
        *(row._replace(theirs=row.theirs.replace(".mlp.", ".feed_forward.")) for row in FEED_FORWARD),
        *(
            row
            for row in expert_rows(router="feed_forward.router", shared="feed_forward.shared_expert")
            if "{e}" not in row.theirs
        ),
        Row(
            (f"{EXPERT}.gate.weight", f"{EXPERT}.up.weight"),
            f"{THEIRS}.feed_forward.experts.gate_up_proj",
            Change(
                lambda x, like, shape: [w.t() for half in x.chunk(2, -1) for w in half.unbind()],
                lambda ours, shape: torch.cat(
                    [torch.stack([w.t() for w in half]) for half in halves(ours)], -1
                ),
            ),
        ),
        Row((f"{EXPERT}.down.weight",), f"{THEIRS}.feed_forward.experts.down_proj", OF_EXPERTS),
    ],
    axes=(
        listed_axis(
            "no_rope_layers",
            {1: "rope", 0: "nope"},
            lambda layer: "nope" if layer["position"]["name"] == "none" else "rope",
        ),
        listed_axis(
            "layer_types",
            {"chunked_attention": "chunked", "full_attention": "whole"},
            lambda layer: "chunked" if layer["attention"].get("chunk") else "whole",
        ),
        Axis(
            ("moe_layers", "interleave_moe_layer_step"),
            moe_layers,
            lambda found: {"moe_layers": [n for n, kind in enumerate(found) if kind == "sparse"]},
            sparse_or_dense,
        ),
    ),
    unpack=llama4,
    pack=llama4_flags,
    harmless=(*JITTER, "no_rope_layer_interval", "for_llm_compressor"),
    theta=500_000.0,
)

# ------------------------------------------------------------------------------------------ DBRX


def dbrx(config: dict[str, Any]) -> dict[str, Any]:
    """`attn_config` and `ffn_config` made flat."""
    config = dict(config)
    inside = {name: config.pop(name, None) or {} for name in ("attn_config", "ffn_config")}
    if not all(isinstance(part, dict) for part in inside.values()):
        raise CheckpointFormatError("attn_config and ffn_config should be objects")
    attn, ffn = inside["attn_config"], inside["ffn_config"]
    for theirs in ("kv_n_heads", "clip_qkv"):
        if theirs in attn:
            config[theirs] = attn[theirs]
    config = dbrx_rope(config, attn.get("rope_theta", 10_000.0))
    for theirs in ("ffn_hidden_size", "moe_num_experts", "moe_top_k"):
        if theirs in ffn:
            config[theirs] = ffn[theirs]
    said = ffn.get("ffn_act_fn") or {"name": "silu"}
    norm = ffn.get("moe_normalize_expert_weights", 1.0)
    if norm not in (1, None):
        raise CheckpointFormatError(f"moe_normalize_expert_weights is {shown(norm)}, and should be 1 or null")
    config.pop("num_key_value_heads", None)
    return {**config, "hidden_act": said.get("name"), "gates": "all" if norm is None else "renormalised"}


def dbrx_rope(config: dict[str, Any], theta: float) -> dict[str, Any]:
    """RoPE with the theta of `attn_config`. transformers 5 does not read that one, and takes 10,000 unless
    `rope_parameters` says it, so two that differ are refused. Raises CheckpointFormatError."""
    said = any(config.get(key) is not None for key in ("rope_parameters", *OLD))
    config = gather(config, 10_000.0 if said else theta, 1.0)
    if config["rope_parameters"]["rope_theta"] != theta:
        raise CheckpointFormatError(
            f"attn_config.rope_theta is {shown(theta)}, but rope_parameters makes it "
            f"{shown(config['rope_parameters']['rope_theta'])}; write the one of training into both"
        )
    return config


def dbrx_parts(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the two objects."""
    config = dict(config)
    attn = {key: config.pop(key) for key in ("kv_n_heads", "clip_qkv")}
    attn["rope_theta"] = config["rope_parameters"]["rope_theta"]
    ffn = {key: config.pop(key) for key in ("ffn_hidden_size", "moe_num_experts", "moe_top_k")}
    ffn["ffn_act_fn"] = {"name": config.pop("hidden_act")}
    ffn["moe_normalize_expert_weights"] = None if config.pop("gates") == "all" else 1.0
    ffn["hidden_size"] = config["d_model"]
    for key in ("rope_theta", "rope_scaling"):
        config.pop(key, None)
    return {**config, "attn_config": attn, "ffn_config": ffn}


_BLOCK = "transformer.blocks.{n}"
OF_ROWS = Change(  # (E I, C): the matrices of all experts, one below the other
    lambda x, like, shape: list(x.split([size[0] for size in like])),
    lambda ours, shape: torch.cat(ours),
)
OF_ROWS_TRANSPOSED = Change(
    lambda x, like, shape: [w.t() for w in x.split([size[1] for size in like])],
    lambda ours, shape: torch.cat([w.t() for w in ours]),
)
DBRX = Family(
    name="dbrx",
    architecture="DbrxForCausalLM",
    always={
        **ALWAYS,
        "norm": {"name": "layernorm", "bias": False, "eps": 1e-5},
        "ffn": {"name": "moe", "expert": GATED_MLP},
    },
    options=[
        *size_options(width="d_model", depth="n_layers", heads="n_heads", context="max_seq_len"),
        *(ROPE, UNTIED, Option("attention.kv_heads", "kv_n_heads", 1)),
        Option("attention.clip_qkv", "clip_qkv", None),
        Option("ffn.normalisation", "gates", "renormalised"),
        *routed_options("ffn", "moe_num_experts", "moe_top_k", "ffn_hidden_size"),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.wte.weight", SAME),
        Row(("final_norm.weight",), "transformer.norm_f.weight", SAME),
        Row(("head.weight",), "lm_head.weight", SAME),
        Row(
            tuple(f"{LAYER}.attention.{name}.weight" for name in ("q", "k", "v")),
            f"{_BLOCK}.norm_attn_norm.attn.Wqkv.weight",
            STACKED,
        ),
        Row((f"{LAYER}.attention.out.weight",), f"{_BLOCK}.norm_attn_norm.attn.out_proj.weight", SAME),
        Row(
            (f"{LAYER}.attention_residual.input_norm.weight",), f"{_BLOCK}.norm_attn_norm.norm_1.weight", SAME
        ),
        Row((f"{LAYER}.ffn_residual.input_norm.weight",), f"{_BLOCK}.norm_attn_norm.norm_2.weight", SAME),
        Row((f"{LAYER}.ffn.router.weight",), f"{_BLOCK}.ffn.router.layer.weight", SAME),
        Row((f"{EXPERT}.gate.weight",), f"{_BLOCK}.ffn.experts.mlp.w1", OF_ROWS),
        Row((f"{EXPERT}.up.weight",), f"{_BLOCK}.ffn.experts.mlp.v1", OF_ROWS),
        Row((f"{EXPERT}.down.weight",), f"{_BLOCK}.ffn.experts.mlp.w2", OF_ROWS_TRANSPOSED),
    ],
    prefix="transformer.",
    unpack=dbrx,
    pack=dbrx_parts,
    nested=("attn_config", "ffn_config"),
    harmless=(*JITTER, "resid_pdrop", "emb_pdrop", "num_local_experts"),
    whole_heads=True,
)
GATED_FAMILIES: tuple[Family, ...] = (AFMOE, LAGUNA, LLAMA4, DBRX)
