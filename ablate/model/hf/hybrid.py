"""Families whose layers are in part recurrent: gated delta rule, KDA, lightning attention."""

from typing import Any

import torch

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Change,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.latent import IMPLIED, MLA, MLA_ROWS, WIDTHS, latent, query_row, spelled_out
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    FEED_FORWARD,
    LAYER,
    PRE,
    QK_NORMS,
    THEIRS,
    UNTIED,
    WIDTH,
    norms,
)
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    LATER,
    SPARSE,
    W123,
    dense_and_sparse,
    moe,
    routed_options,
)
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.scored_mixtures import SIGMOID
from ablate.model.hf.tables import (
    PAIRED,
    SPARSE_LISTED,
    activation_option,
    expert_rows,
    listed_axis,
    size_options,
)
from ablate.model.hf.words import flag

MIX = f"{LAYER}.attention"
SILU_THROUGHOUT = {"hidden_act": ("silu", "swish")}  # theirs is that of the short convolutions, too
IN_RECURRENT = "variants.recurrent.attention"
GLOBAL = "variants.global.attention"
GLOBAL_ROPE = Option("variants.global.position", "rope_parameters", read=read_rope, write=write_rope)
GLOBAL_KV_HEADS = Option(f"{GLOBAL}.kv_heads", "num_key_value_heads", None)
BIAS = Option(f"{GLOBAL}.bias", "attention_bias", False, *flag("q", "k", "v", "out"))
HEAD_DIM = Option("head_width", "head_dim", None)
INTERVAL = ("full_attention_interval", "linear_attention_interval")


def recurrent_and_global(
    recurrent: dict[str, Any], attention: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Recurrent layers without a position, and layers of attention with one."""
    return {
        "recurrent": {"attention": recurrent, "position": {"name": "none"}},
        "global": {"attention": attention or {"name": "softmax"}, "position": {"name": "rope"}},
    }


def recurrent_or_global(layer: dict[str, Any]) -> str:
    """The kind of a layer by its mixer."""
    return "global" if layer["attention"]["name"] in ("softmax", "mla") else "recurrent"


def words(recurrent: str, key: str = "layer_types", attention: str = "full_attention") -> Any:
    """The axis of a family with a word for recurrent layers."""
    return listed_axis(key, {recurrent: "recurrent", attention: "global"}, recurrent_or_global)


# ------------------------------------------------------------------------------- gated delta rule


GDN: dict[str, Any] = {"name": "gated_deltanet", "norm": {"name": "rmsnorm"}}
GDN_SIZES = [
    Option(f"{IN_RECURRENT}.key_heads", "linear_num_key_heads"),
    Option(f"{IN_RECURRENT}.value_heads", "linear_num_value_heads"),
    Option(f"{IN_RECURRENT}.key_width", "linear_key_head_dim"),
    Option(f"{IN_RECURRENT}.value_width", "linear_value_head_dim"),
    Option(f"{IN_RECURRENT}.convolution", "linear_conv_kernel_dim", 4),
]
GDN_EPS = Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-6)
LINEAR = f"{THEIRS}.linear_attn"
OFFSET = {"name": "rmsnorm", "offset": True}
QWEN_ATTENTION = {"name": "softmax", "qk_norm": OFFSET, "qk_norm_over": "head", "gate": "channel"}
CONVS = tuple(f"{MIX}.{name}_conv.weight" for name in ("q", "k", "v"))
QWEN_GDN_ROWS = [
    Row(tuple(f"{MIX}.{name}.weight" for name in ("q", "k", "v")), f"{LINEAR}.in_proj_qkv.weight", STACKED),
    Row((f"{MIX}.gate.weight",), f"{LINEAR}.in_proj_z.weight", SAME),
    Row((f"{MIX}.a.weight",), f"{LINEAR}.in_proj_a.weight", SAME),
    Row((f"{MIX}.b.weight",), f"{LINEAR}.in_proj_b.weight", SAME),
]
GDN_ROWS = [
    Row(CONVS, f"{LINEAR}.conv1d.weight", STACKED),
    Row((f"{MIX}.log_rate",), f"{LINEAR}.A_log", SAME),
    Row((f"{MIX}.time_bias",), f"{LINEAR}.dt_bias", SAME),
    Row((f"{MIX}.norm.weight",), f"{LINEAR}.norm.weight", SAME),
    Row((f"{MIX}.out.weight",), f"{LINEAR}.out_proj.weight", SAME),
]


def only(rows: list[Row], mixer: str) -> list[Row]:
    """The rows that only layers of one kind have: of attention, by a projection that no recurrent one has."""
    return [row._replace(kind=mixer) for row in rows]


SELF_ATTN = f"{THEIRS}.self_attn"
GATED_ATTENTION = [
    *linear_rows((f"{MIX}.q", f"{MIX}.gate"), f"{SELF_ATTN}.q_proj", PAIRED),
    *(row for row in ATTENTION if ".q_proj." not in row.theirs),
]
QWEN_ALWAYS: dict[str, Any] = {
    **ALWAYS,
    "norm": OFFSET,
    "position": {"name": "rope"},
}
QWEN_OPTIONS = [
    *(*size_options(), GLOBAL_KV_HEADS, GLOBAL_ROPE, HEAD_DIM, EPS, UNTIED, BIAS, *GDN_SIZES, GDN_EPS),
    Option(f"{GLOBAL}.qk_norm.eps", "rms_norm_eps", 1e-6),
]
QWEN_ROWS = [
    *(*ENDS, *PRE, *only([*GATED_ATTENTION, *QK_NORMS], "softmax")),
    *only([*QWEN_GDN_ROWS, *GDN_ROWS], "gated_deltanet"),
]
QWEN3_5 = kin(
    "qwen3_5_text",
    "Qwen3_5ForCausalLM",
    always={**QWEN_ALWAYS, "variants": recurrent_and_global(GDN, QWEN_ATTENTION)},
    options=[*QWEN_OPTIONS, WIDTH, activation_option()],
    rows=[*QWEN_ROWS, *FEED_FORWARD],
    axes=(words("linear_attention"),),
    must=SILU_THROUGHOUT,
    harmless=(*INTERVAL, "mtp_num_hidden_layers", "mamba_ssm_dtype", "attn_output_gate"),
    rotary_fraction=0.25,
)
SHARED = [
    Option("ffn.shared_expert.width", "shared_expert_intermediate_size"),
    activation_option("ffn.shared_expert"),
]
SHARED_GATE = Row((f"{LAYER}.ffn.shared_gate.weight",), f"{THEIRS}.mlp.shared_expert_gate.weight", SAME)
GATED_SHARE: dict[str, Any] = {"shared": 1, "shared_gate": True, "shared_expert": GATED_MLP}
QWEN3_5_MOE = kin(
    "qwen3_5_moe_text",
    "Qwen3_5MoeForCausalLM",
    QWEN3_5,
    always={**QWEN3_5.always, "ffn": moe("renormalised", **GATED_SHARE)},
    options=[*QWEN_OPTIONS, *routed_options("ffn", "num_experts"), *SHARED],
    rows=[*QWEN_ROWS, *expert_rows(shared="mlp.shared_expert"), SHARED_GATE],
    must=SILU_THROUGHOUT,
    harmless=(*JITTER, *QWEN3_5.harmless, "num_local_experts"),
)
OLMO_GDN = f"{THEIRS}.linear_attn"
OLMO_HYBRID = kin(
    "olmo_hybrid",
    "OlmoHybridForCausalLM",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "placement"},
        "placement": "pre",
        "variants": {
            "recurrent": {**recurrent_and_global(GDN)["recurrent"], "placement": {"name": "pre"}},
            "global": {
                "attention": {"name": "softmax", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "width"},
                "position": {"name": "rope"},
                "placement": {"name": "output"},
            },
        },
    },
    options=[
        *(
            *size_options(),
            GLOBAL_KV_HEADS,
            GLOBAL_ROPE,
            EPS,
            UNTIED,
            BIAS,
            WIDTH,
            activation_option(),
            *GDN_SIZES,
        ),
        Option(f"{GLOBAL}.qk_norm.eps", "rms_norm_eps", 1e-6),
        Option(f"{IN_RECURRENT}.negative_eigenvalues", "linear_allow_neg_eigval", True),
    ],
    rows=[
        *(*ENDS, *FEED_FORWARD, *only([*ATTENTION, *QK_NORMS], "softmax")),
        *only(norms(attention_output_norm="feedforward_layer_norm"), "softmax"),
        *only(norms(attention_output_norm="post_attention_layernorm"), "softmax"),
        *only(norms(ffn_output_norm="post_feedforward_layernorm"), "softmax"),
        *only(norms(attention_input_norm="attention_layer_norm"), "gated_deltanet"),
        *only(norms(ffn_input_norm="feedforward_layer_norm"), "gated_deltanet"),
        *only(
            [
                *(Row((f"{MIX}.{n}.weight",), f"{OLMO_GDN}.{n}_proj.weight", SAME) for n in "qkvab"),
                *(Row((f"{MIX}.{n}_conv.weight",), f"{OLMO_GDN}.{n}_conv1d.weight", SAME) for n in "qkv"),
                Row((f"{MIX}.gate.weight",), f"{OLMO_GDN}.g_proj.weight", SAME),
                Row((f"{MIX}.out.weight",), f"{OLMO_GDN}.o_proj.weight", SAME),
                Row((f"{MIX}.norm.weight",), f"{OLMO_GDN}.o_norm.weight", SAME),
                Row((f"{MIX}.log_rate",), f"{OLMO_GDN}.A_log", SAME),
                Row((f"{MIX}.time_bias",), f"{OLMO_GDN}.dt_bias", SAME),
            ],
            "gated_deltanet",
        ),
    ],
    axes=(words("linear_attention"),),
    harmless=(
        *("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max"),
        "linear_dt_init_floor",
    ),
    must=SILU_THROUGHOUT,
)

# ------------------------------------------------------------------------------------------- KDA

FOUR = Change(lambda x, like, shape: [x.flatten()], lambda ours, shape: ours[0][None, None, :, None])
KDA_NAMES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "b": "b_proj",
    "out": "o_proj",
    "norm": "o_norm",
    "forget_down": "f_a_proj",
    "forget_up": "f_b_proj",
    "gate_down": "g_a_proj",
    "gate_up": "g_b_proj",
    "q_conv": "q_conv1d",
    "k_conv": "k_conv1d",
    "v_conv": "v_conv1d",
}
KDA_ROWS = [
    *(Row((f"{MIX}.{a}.weight",), f"{SELF_ATTN}.{b}.weight", SAME) for a, b in KDA_NAMES.items()),
    Row((f"{MIX}.log_rate",), f"{SELF_ATTN}.A_log", FOUR),
    Row((f"{MIX}.time_bias",), f"{SELF_ATTN}.dt_bias", SAME),
]


def of_global(option: Option) -> Option:
    """An option of attention in the layers that have it."""
    return option._replace(ours=option.ours.replace("attention.", f"{GLOBAL}."))


def kimi(config: dict[str, Any]) -> dict[str, Any]:
    """As DeepSeek's, and KDA with as many heads as attention."""
    heads = config.get("linear_num_heads")
    if heads not in (None, config.get("num_attention_heads")):
        raise CheckpointFormatError(f"linear_num_heads is {shown(heads)}, not num_attention_heads")
    said = {key: value for key, value in config.items() if key != "linear_num_heads"}
    return latent({**said, "rope_parameters": {"rope_type": "default"}})


def kimi_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back, without a position."""
    config = dict(spelled_out({**config, "rope_parameters": {"rope_type": ""}}))
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        config.pop(key, None)
    return {**config, "linear_num_heads": config["num_attention_heads"]}


KIMI_MOE = [
    *FEED_FORWARD,
    *expert_rows(names=W123, shared="mlp.shared_experts", bias="mlp.gate.e_score_correction_bias"),
]
KIMI_LINEAR = kin(
    "kimi_linear",
    "KimiLinearForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "none"},
        "variants": {
            "recurrent": {"attention": {"name": "kda", "norm": {"name": "rmsnorm"}}},
            "global": {"attention": MLA},
            **dense_and_sparse(moe("sigmoid")),
        },
    },
    options=[
        *(
            *size_options(context="model_max_length"),
            *map(of_global, WIDTHS),
            EPS._replace(default=1e-5),
            UNTIED,
        ),
        Option(f"{IN_RECURRENT}.head_width", "linear_head_dim"),
        Option(f"{IN_RECURRENT}.convolution", "linear_conv_kernel_dim", 4),
        Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-5),
        *(*DENSE, SIGMOID._replace(theirs="moe_renormalize")),
        *routed_options(
            SPARSE,
            "num_experts",
            "num_experts_per_token",
            shared="num_shared_experts",
            scale="routed_scaling_factor",
        ),
        Option(f"{SPARSE}.groups", "num_expert_group", 1),
        Option(f"{SPARSE}.top_groups", "topk_group", 1),
    ],
    rows=[
        *(*ENDS, *PRE, *only(KDA_ROWS, "kda")),
        *only([*MLA_ROWS, query_row("q_b_proj"), query_row("q_proj")], "mla"),
        *(row._replace(theirs=row.theirs.replace(".mlp.", ".block_sparse_moe.")) for row in KIMI_MOE),
    ],
    axes=(words("linear_attention"), SPARSE_LISTED),
    unpack=kimi,
    pack=kimi_back,
    must=SILU_THROUGHOUT,
    harmless=(*JITTER, *LATER, *IMPLIED, "num_local_experts", "rope_parameters"),
)

# ------------------------------------------------------------------------------------- lightning

BY_HEAD_ROWS = Change(  # of each head, its rows of q, then k, then v
    lambda x, like, shape: [
        part.flatten(0, 1) for part in x.unflatten(0, (shape.heads, 3, shape.head_width)).unbind(1)
    ],
    lambda ours, shape: torch.stack(
        [part.unflatten(0, (shape.heads, shape.head_width)) for part in ours], 1
    ).flatten(0, 2),
)
FACTORS = [
    f"{kind}_{word}_factor" for kind in ("full_attn", "linear_attn", "mlp") for word in ("alpha", "beta")
]
MINIMAX = kin(
    "minimax",
    "MiniMaxForCausalLM",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "placement"},
        "placement": "post",
        "embedding": {"norm": {"name": "rmsnorm"}},
        "ffn": moe("renormalised"),
        "variants": recurrent_and_global({"name": "lightning", "norm": {"name": "rmsnorm", "eps": 1e-6}}),
    },
    options=[
        *(*size_options(), GLOBAL_KV_HEADS, GLOBAL_ROPE, HEAD_DIM, EPS._replace(default=1e-5), UNTIED),
        Option("embedding.norm.eps", "rms_norm_eps", 1e-5),
        *routed_options("ffn", "num_local_experts", width="intermediate_size"),
    ],
    rows=[
        *(*(row for row in ENDS if row.ours != ("final_norm.weight",)), *only(ATTENTION, "softmax")),
        Row(("embedding_norm.0.weight",), "model.layers.0.input_layernorm.weight", SAME),
        *norms(attention_residual_norm="post_attention_layernorm"),
        Row((f"{LAYER}.ffn_residual.residual_norm.weight",), "model.layers.{m}.input_layernorm.weight", SAME),
        Row(("layers.{last}.ffn_residual.residual_norm.weight",), "model.norm.weight", SAME),
        *only(
            [
                Row(tuple(f"{MIX}.{n}.weight" for n in "qkv"), f"{SELF_ATTN}.qkv_proj.weight", BY_HEAD_ROWS),
                Row((f"{MIX}.gate.weight",), f"{SELF_ATTN}.output_gate.weight", SAME),
                Row((f"{MIX}.norm.weight",), f"{SELF_ATTN}.norm.weight", SAME),
                Row((f"{MIX}.out.weight",), f"{SELF_ATTN}.out_proj.weight", SAME),
            ],
            "lightning",
        ),
        *expert_rows("block_sparse_moe.experts", W123, "block_sparse_moe.gate"),
    ],
    axes=(words("linear_attention"),),
    must={**dict.fromkeys(FACTORS, (1, 1.0)), "sliding_window": (None,), **SILU_THROUGHOUT},
    harmless=(*JITTER, "block_size"),
    theta=1e6,
)


HYBRID_FAMILIES: tuple[Family, ...] = (QWEN3_5, QWEN3_5_MOE, OLMO_HYBRID, KIMI_LINEAR, MINIMAX)
