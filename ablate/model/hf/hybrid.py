"""Families whose layers are in part recurrent: gated delta rule, KDA, lightning, Mamba-2, short convolution."""

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
    linear,
    shown,
)
from ablate.model.hf.latent import IMPLIED, MLA, MLA_ROWS, WIDTHS, latent, query_row, spelled_out
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    FEED_FORWARD,
    PRE,
    QK_NORMS,
    TIED,
    UNTIED,
    WIDTH,
    norms,
)
from ablate.model.hf.llama_kin import LOCAL_ROPES, WINDOW, kin, ropes
from ablate.model.hf.mixtures import (
    DENSE,
    GLU,
    JITTER,
    LATER,
    SIGMOID,
    SPARSE,
    W123,
    kinds,
    moe,
    renormalised,
    routed,
)
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import (
    LAYER,
    PAIRED,
    SPARSE_LISTED,
    THEIRS,
    activation,
    expert_rows,
    first_dense,
    listed,
    local_or_global,
    sizes,
)
from ablate.model.hf.words import flag

MIX = f"{LAYER}.attention"
RECURRENT = "variants.recurrent.attention"
GLOBAL = "variants.global.attention"
ROPE = Option("variants.global.position", "rope_parameters", read=read_rope, write=write_rope)
KV_HEADS = Option(f"{GLOBAL}.kv_heads", "num_key_value_heads", None)
BIAS = Option(f"{GLOBAL}.bias", "attention_bias", False, *flag("q", "k", "v", "out"))
HEAD_DIM = Option("head_width", "head_dim", None)
INTERVAL = ("full_attention_interval", "linear_attention_interval")


def mixed(recurrent: dict[str, Any], attention: dict[str, Any] | None = None) -> dict[str, Any]:
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
    return listed(key, {recurrent: "recurrent", attention: "global"}, recurrent_or_global)


# ------------------------------------------------------------------------------- gated delta rule


GDN: dict[str, Any] = {"name": "gated_deltanet", "norm": {"name": "rmsnorm"}}
GDN_SIZES = [
    Option(f"{RECURRENT}.key_heads", "linear_num_key_heads"),
    Option(f"{RECURRENT}.value_heads", "linear_num_value_heads"),
    Option(f"{RECURRENT}.key_width", "linear_key_head_dim"),
    Option(f"{RECURRENT}.value_width", "linear_value_head_dim"),
    Option(f"{RECURRENT}.convolution", "linear_conv_kernel_dim", 4),
]
GDN_EPS = Option(f"{RECURRENT}.norm.eps", "rms_norm_eps", 1e-6)
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


SELF = f"{THEIRS}.self_attn"
GATED_ATTENTION = [
    *linear((f"{MIX}.q", f"{MIX}.gate"), f"{SELF}.q_proj", PAIRED),
    *(row for row in ATTENTION if ".q_proj." not in row.theirs),
]
QWEN_ALWAYS: dict[str, Any] = {
    **ALWAYS,
    "norm": OFFSET,
    "position": {"name": "rope"},
}
QWEN_OPTIONS = [
    *(*sizes(), KV_HEADS, ROPE, HEAD_DIM, EPS, UNTIED, BIAS, *GDN_SIZES, GDN_EPS),
    Option(f"{GLOBAL}.qk_norm.eps", "rms_norm_eps", 1e-6),
]
QWEN_ROWS = [
    *(*ENDS, *PRE, *only([*GATED_ATTENTION, *QK_NORMS], "softmax")),
    *only([*QWEN_GDN_ROWS, *GDN_ROWS], "gated_deltanet"),
]
QWEN3_5 = kin(
    "qwen3_5_text",
    "Qwen3_5ForCausalLM",
    always={**QWEN_ALWAYS, "variants": mixed(GDN, QWEN_ATTENTION)},
    options=[*QWEN_OPTIONS, WIDTH, activation()],
    rows=[*QWEN_ROWS, *FEED_FORWARD],
    axes=(words("linear_attention"),),
    harmless=(*INTERVAL, "mtp_num_hidden_layers", "mamba_ssm_dtype", "attn_output_gate"),
    rotary_fraction=0.25,
)
SHARED = [
    Option("ffn.shared_expert.width", "shared_expert_intermediate_size"),
    activation("ffn.shared_expert"),
]
SHARED_GATE = Row((f"{LAYER}.ffn.shared_gate.weight",), f"{THEIRS}.mlp.shared_expert_gate.weight", SAME)
GATED_SHARE: dict[str, Any] = {"shared": 1, "shared_gate": True, "shared_expert": GLU}
QWEN3_5_MOE = kin(
    "qwen3_5_moe_text",
    "Qwen3_5MoeForCausalLM",
    QWEN3_5,
    always={**QWEN3_5.always, "ffn": moe("renormalised", **GATED_SHARE)},
    options=[*QWEN_OPTIONS, *routed("ffn", "num_experts"), *SHARED],
    rows=[*QWEN_ROWS, *expert_rows(shared="mlp.shared_expert"), SHARED_GATE],
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
            "recurrent": {**mixed(GDN)["recurrent"], "placement": {"name": "pre"}},
            "global": {
                "attention": {"name": "softmax", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "width"},
                "position": {"name": "rope"},
                "placement": {"name": "output"},
            },
        },
    },
    options=[
        *(*sizes(), KV_HEADS, ROPE, EPS, UNTIED, BIAS, WIDTH, activation(), *GDN_SIZES),
        Option(f"{GLOBAL}.qk_norm.eps", "rms_norm_eps", 1e-6),
        Option(f"{RECURRENT}.negative_eigenvalues", "linear_allow_neg_eigval", True),
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
    *(Row((f"{MIX}.{a}.weight",), f"{SELF}.{b}.weight", SAME) for a, b in KDA_NAMES.items()),
    Row((f"{MIX}.log_rate",), f"{SELF}.A_log", FOUR),
    Row((f"{MIX}.time_bias",), f"{SELF}.dt_bias", SAME),
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
    config = {
        key: value for key, value in spelled_out({**config, "rope_parameters": {"rope_type": ""}}).items()
    }
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
            **kinds(moe("sigmoid")),
        },
    },
    options=[
        *(*sizes(context="model_max_length"), *map(of_global, WIDTHS), EPS._replace(default=1e-5), UNTIED),
        Option(f"{RECURRENT}.head_width", "linear_head_dim"),
        Option(f"{RECURRENT}.convolution", "linear_conv_kernel_dim", 4),
        Option(f"{RECURRENT}.norm.eps", "rms_norm_eps", 1e-5),
        *(*DENSE, SIGMOID._replace(theirs="moe_renormalize")),
        *routed(
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
        "variants": mixed({"name": "lightning", "norm": {"name": "rmsnorm", "eps": 1e-6}}),
    },
    options=[
        *(*sizes(), KV_HEADS, ROPE, HEAD_DIM, EPS._replace(default=1e-5), UNTIED),
        Option("embedding.norm.eps", "rms_norm_eps", 1e-5),
        *routed("ffn", "num_local_experts", width="intermediate_size"),
    ],
    rows=[
        *(*(row for row in ENDS if row.ours != ("final_norm.weight",)), *only(ATTENTION, "softmax")),
        Row(("embedding_norm.0.weight",), "model.layers.0.input_layernorm.weight", SAME),
        *norms(attention_residual_norm="post_attention_layernorm"),
        Row((f"{LAYER}.ffn_residual.residual_norm.weight",), "model.layers.{m}.input_layernorm.weight", SAME),
        Row(("layers.{last}.ffn_residual.residual_norm.weight",), "model.norm.weight", SAME),
        *only(
            [
                Row(tuple(f"{MIX}.{n}.weight" for n in "qkv"), f"{SELF}.qkv_proj.weight", BY_HEAD_ROWS),
                Row((f"{MIX}.gate.weight",), f"{SELF}.output_gate.weight", SAME),
                Row((f"{MIX}.norm.weight",), f"{SELF}.norm.weight", SAME),
                Row((f"{MIX}.out.weight",), f"{SELF}.out_proj.weight", SAME),
            ],
            "lightning",
        ),
        *expert_rows("block_sparse_moe.experts", W123, "block_sparse_moe.gate"),
    ],
    axes=(words("linear_attention"),),
    must={**dict.fromkeys(FACTORS, (1, 1.0)), "sliding_window": (None,)},
    harmless=(*JITTER, "block_size"),
    theta=1e6,
)

# ------------------------------------------------------------------------------ short convolution


def lfm2_width(config: dict[str, Any]) -> dict[str, Any]:
    """The hidden width after its rule, as `inner`."""
    config = dict(config)
    width = config.pop("intermediate_size", 12288)
    adjust, times = config.pop("block_auto_adjust_ff_dim", True), config.pop("block_ffn_dim_multiplier", 1.0)
    grain = config.pop("block_multiple_of", 256)
    numbers = [n for n in (width, grain, times) if n is not None]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in numbers):
        raise CheckpointFormatError(
            "intermediate_size, block_multiple_of or block_ffn_dim_multiplier is no number"
        )
    if adjust:
        width = int(2 * width / 3)
        if times is not None:
            width = grain * -(-int(times * width) // grain)
    config.pop("full_attn_idxs", None)
    return {**config, "inner": width}


def lfm2_given(config: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    return {**config, "intermediate_size": config.pop("inner"), "block_auto_adjust_ff_dim": False}


SHORT = {"name": "short_convolution"}
CONV_ROWS = only(
    [
        *linear(tuple(f"{MIX}.{n}" for n in "bcu"), f"{THEIRS}.conv.in_proj", STACKED),
        *linear(f"{MIX}.conv", f"{THEIRS}.conv.conv"),
        *linear(f"{MIX}.out", f"{THEIRS}.conv.out_proj"),
    ],
    "short_convolution",
)
LFM_NORMS = norms(attention_input_norm="operator_norm", ffn_input_norm="ffn_norm")
LFM_ENDS = [row._replace(theirs=row.theirs.replace("model.norm.", "model.embedding_norm.")) for row in ENDS]


def lfm_attention(names: dict[str, str]) -> list[Row]:
    """The rows of attention, by their names of the norms."""
    out = [row._replace(theirs=row.theirs.replace("o_proj", "out_proj")) for row in ATTENTION]
    heads = [Row((f"{MIX}.{a}.weight",), f"{SELF}.{b}.weight", SAME) for a, b in names.items()]
    return only([*out, *heads], "softmax")


LFM_FFN = [
    Row((f"{LAYER}.ffn.{a}.weight",), f"{THEIRS}.feed_forward.{b}.weight", SAME)
    for a, b in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
]
LFM_HEADS: dict[str, Any] = {"name": "softmax", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "head"}
LFM_OPTIONS = [
    *(*sizes(), KV_HEADS, TIED, EPS._replace(theirs="norm_eps", default=1e-5)),
    Option(f"{GLOBAL}.qk_norm.eps", "norm_eps", 1e-5),
    Option(f"{RECURRENT}.convolution", "conv_L_cache", 3),
    Option(f"{RECURRENT}.bias", "conv_bias", False),
]
LAYERNORM_NAMES = {"q_norm": "q_layernorm", "k_norm": "k_layernorm"}
LFM2 = kin(
    "lfm2",
    "Lfm2ForCausalLM",
    always={
        **ALWAYS,
        "ffn": {"name": "glu", "activation": {"name": "silu"}},
        "variants": mixed(SHORT, LFM_HEADS),
    },
    options=[*LFM_OPTIONS, ROPE, Option("ffn.width", "inner")],
    rows=[*LFM_ENDS, *LFM_NORMS, *lfm_attention(LAYERNORM_NAMES), *CONV_ROWS, *LFM_FFN],
    axes=(words("conv"),),
    unpack=lfm2_width,
    pack=lfm2_given,
    theta=1e6,
)
SILU = {"name": "silu"}
LFM2_MOE = kin(
    "lfm2_moe",
    "Lfm2MoeForCausalLM",
    always={
        **ALWAYS,
        "variants": {
            **mixed(SHORT, LFM_HEADS),
            "dense": {"ffn": {"name": "glu", "activation": SILU}},
            "sparse": {"ffn": {"name": "moe", "expert": {"name": "glu", "activation": SILU}}},
        },
    },
    options=[
        *(*LFM_OPTIONS, ROPE, WIDTH._replace(ours="variants.dense.ffn.width")),
        *(
            o
            for o in routed(SPARSE, "num_experts", scale="routed_scaling_factor")
            if o.theirs != "hidden_act"
        ),
        renormalised(SPARSE, True, "sigmoid_all", "sigmoid"),
    ],
    rows=[
        *(*LFM_ENDS, *LFM_NORMS, *lfm_attention(LAYERNORM_NAMES), *CONV_ROWS, *LFM_FFN),
        *expert_rows("feed_forward.experts", W123, "feed_forward.gate", bias="feed_forward.expert_bias"),
    ],
    axes=(words("conv"), first_dense("num_dense_layers", 2)),
    must={"use_expert_bias": (True,)},
    harmless=(*JITTER, "num_local_experts"),
    theta=1e6,
)

LFM3_ROPES = ropes(sliding_attention=10_000.0, full_attention=1e6)
LFM3_HEADS = {**LFM_HEADS, "gate": "head"}
LFM3 = kin(
    "lfm3",
    "Lfm3ForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "ffn": {"name": "glu", "activation": SILU},
        "variants": {
            "recurrent": {"attention": SHORT, "position": {"name": "none"}},
            "local": {"attention": LFM3_HEADS, "position": {"name": "rope"}},
            "global": {"attention": LFM3_HEADS, "position": {"name": "rope"}},
        },
    },
    options=[
        *(
            *sizes(),
            TIED,
            EPS._replace(theirs="norm_eps", default=1e-5),
            HEAD_DIM,
            WIDTH,
            *LOCAL_ROPES,
            WINDOW,
        ),
        *(
            Option(f"variants.{kind}.attention.{ours}", theirs, default, *how)
            for kind in ("local", "global")
            for ours, theirs, default, how in (
                ("kv_heads", "num_key_value_heads", None, ()),
                ("qk_norm.eps", "rms_norm_eps", 1e-5, ()),
                ("bias", "attention_bias", False, flag("q", "k", "v", "out")),
            )
        ),
        Option(f"{RECURRENT}.convolution", "conv_L_cache", 7),
        Option(f"{RECURRENT}.bias", "conv_bias", False),
    ],
    rows=[
        *(*LFM_ENDS, *CONV_ROWS, *LFM_FFN, *only([*ATTENTION, *QK_NORMS], "softmax")),
        *only([Row((f"{MIX}.gate.weight",), f"{SELF}.gate_proj.weight", SAME)], "softmax"),
        *norms(
            attention_input_norm="operator_norm",
            attention_output_norm="post_operator_norm",
            ffn_input_norm="ffn_norm",
            ffn_output_norm="post_ffn_norm",
        ),
    ],
    axes=(
        listed(
            "layer_types",
            {"conv": "recurrent", "sliding_attention": "local", "full_attention": "global"},
            lambda layer: (
                "recurrent" if layer["attention"]["name"] == SHORT["name"] else local_or_global(layer)
            ),
        ),
    ),
    unpack=lambda config: eps_of_heads(LFM3_ROPES["unpack"](config)),
    pack=lambda config: {k: v for k, v in LFM3_ROPES["pack"](config).items() if k != "rms_norm_eps"},
    must={"use_sandwich_norm": (True,), "use_attention_gate": (True,)},
)


def eps_of_heads(config: dict[str, Any]) -> dict[str, Any]:
    """The norms of heads have the eps of all."""
    return {**config, "rms_norm_eps": config.get("norm_eps", 1e-5)}


# ----------------------------------------------------------------------------------------- Mamba-2

MAMBA = f"{THEIRS}.mamba"
MAMBA_PARTS = ("gate", "u", "key", "query", "step")
BAMBA_ROWS = [
    *linear(tuple(f"{MIX}.{n}" for n in MAMBA_PARTS), f"{MAMBA}.in_proj", STACKED),
    *linear(tuple(f"{MIX}.{n}_conv" for n in ("u", "key", "query")), f"{MAMBA}.conv1d", STACKED),
    *linear(f"{MIX}.out", f"{MAMBA}.out_proj"),
    Row((f"{MIX}.log_rate",), f"{MAMBA}.A_log", SAME),
    Row((f"{MIX}.time_bias",), f"{MAMBA}.dt_bias", SAME),
    Row((f"{MIX}.skip",), f"{MAMBA}.D", SAME),
    Row((f"{MIX}.norms.{{g}}.weight",), f"{MAMBA}.norm.weight", STACKED),
]


def bamba(config: dict[str, Any]) -> dict[str, Any]:
    """Kinds of layers as words; the number of Mamba's heads follows from the widths."""
    config = dict(config)
    depth, chosen = config.get("num_hidden_layers", 0), config.pop("attn_layer_indices", None) or []
    if not isinstance(chosen, list) or not isinstance(depth, int):
        raise CheckpointFormatError(f"attn_layer_indices is {shown(chosen)}, and should be a list")
    config["layer_types"] = ["attention" if n in chosen else "mamba" for n in range(min(depth, 100_000))]
    heads, width = config.pop("mamba_n_heads", None), config.get("mamba_d_head")
    wide = [config.get("mamba_expand"), config.get("hidden_size")]
    if None not in (heads, width, *wide) and heads * width != wide[0] * wide[1]:  # type: ignore[operator]
        raise CheckpointFormatError(f"mamba_n_heads is {shown(heads)}, which is not what mamba_expand makes")
    limit = config.pop("time_step_limit", None) or [0.0, float("inf")]
    if list(limit) not in ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}]):
        raise CheckpointFormatError(f"time_step_limit is {shown(limit)}; no option of ours bounds a step")
    return config


def whole(number: float) -> float | int:
    """A whole number without its point."""
    return int(number) if number == int(number) else number


def bamba_indices(config: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    found = config.pop("layer_types")
    return {
        **config,
        "attn_layer_indices": [n for n, word in enumerate(found) if word == "attention"],
        "mamba_n_heads": round(config["mamba_expand"] * config["hidden_size"]) // config["mamba_d_head"],
    }


BAMBA = kin(
    "bamba",
    "BambaForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "variants": mixed({"name": "mamba2", "norm": {"name": "rmsnorm"}}),
    },
    options=[
        *(*sizes(), KV_HEADS, ROPE, EPS._replace(default=1e-5), UNTIED, BIAS, WIDTH, activation()),
        Option(f"{RECURRENT}.norm.eps", "rms_norm_eps", 1e-5),
        Option(f"{RECURRENT}.expand", "mamba_expand", 2, write=whole),
        Option(f"{RECURRENT}.head_width", "mamba_d_head"),
        Option(f"{RECURRENT}.state_width", "mamba_d_state"),
        Option(f"{RECURRENT}.groups", "mamba_n_groups", 1),
        Option(f"{RECURRENT}.convolution", "mamba_d_conv", 4),
        Option(f"{RECURRENT}.convolution_bias", "mamba_conv_bias", True),
        Option(f"{RECURRENT}.bias", "mamba_proj_bias", False),
        Option("ffn.bias", "mlp_bias", False, *flag("gate", "up", "down")),
    ],
    rows=[
        *(row._replace(theirs=row.theirs.replace("model.norm.", "model.final_layernorm.")) for row in ENDS),
        *norms(attention_input_norm="input_layernorm", ffn_input_norm="pre_ff_layernorm"),
        *only(ATTENTION, "softmax"),
        *only(BAMBA_ROWS, "mamba2"),
        *(row._replace(theirs=row.theirs.replace(".mlp.", ".feed_forward.")) for row in FEED_FORWARD),
    ],
    axes=(words("mamba", attention="attention"),),
    unpack=bamba,
    pack=bamba_indices,
    harmless=("num_logits_to_keep", "mamba_chunk_size", "z_loss_coefficient"),
    rotary_fraction=0.5,
)
FAMILIES: tuple[Family, ...] = (
    *(QWEN3_5, QWEN3_5_MOE, OLMO_HYBRID, KIMI_LINEAR, MINIMAX, LFM2, LFM2_MOE, LFM3, BAMBA),
)
