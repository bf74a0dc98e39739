"""Families with short convolutions (LFM) and with Mamba-2."""

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
from ablate.model.hf.hybrid import (
    BIAS,
    GLOBAL,
    GLOBAL_KV_HEADS,
    GLOBAL_ROPE,
    HEAD_DIM,
    IN_RECURRENT,
    MIX,
    SELF_ATTN,
    SILU_THROUGHOUT,
    only,
    recurrent_and_global,
    words,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    FEED_FORWARD,
    LAYER,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
    WIDTH,
    norms,
)
from ablate.model.hf.llama_kin import WINDOW, kin
from ablate.model.hf.llama_layers import LOCAL_ROPES, ropes
from ablate.model.hf.mixtures import JITTER, SPARSE, W123, renormalised, routed_options
from ablate.model.hf.rotation import plain_turns_whole
from ablate.model.hf.tables import (
    activation_option,
    expert_rows,
    first_dense,
    listed_axis,
    local_or_global,
    size_options,
)
from ablate.model.hf.words import flag

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
    """Back: the width itself, and no rule."""
    config = dict(config)
    return {**config, "intermediate_size": config.pop("inner"), "block_auto_adjust_ff_dim": False}


SHORT_CONV = {"name": "short_convolution"}
CONV_ROWS = only(
    [
        *linear_rows(tuple(f"{MIX}.{n}" for n in "bcu"), f"{THEIRS}.conv.in_proj", STACKED),
        *linear_rows(f"{MIX}.conv", f"{THEIRS}.conv.conv"),
        *linear_rows(f"{MIX}.out", f"{THEIRS}.conv.out_proj"),
    ],
    "short_convolution",
)
LFM_NORMS = norms(attention_input_norm="operator_norm", ffn_input_norm="ffn_norm")
LFM_ENDS = [row._replace(theirs=row.theirs.replace("model.norm.", "model.embedding_norm.")) for row in ENDS]


def lfm_attention(names: dict[str, str]) -> list[Row]:
    """The rows of attention, by their names of the norms."""
    out = [row._replace(theirs=row.theirs.replace("o_proj", "out_proj")) for row in ATTENTION]
    heads = [Row((f"{MIX}.{a}.weight",), f"{SELF_ATTN}.{b}.weight", SAME) for a, b in names.items()]
    return only([*out, *heads], "softmax")


LFM_FFN = [
    Row((f"{LAYER}.ffn.{a}.weight",), f"{THEIRS}.feed_forward.{b}.weight", SAME)
    for a, b in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
]
LFM_HEADS: dict[str, Any] = {"name": "softmax", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "head"}
LFM_OPTIONS = [
    *(*size_options(), GLOBAL_KV_HEADS, TIED, EPS._replace(theirs="norm_eps", default=1e-5)),
    Option(f"{GLOBAL}.qk_norm.eps", "norm_eps", 1e-5),
    Option(f"{IN_RECURRENT}.convolution", "conv_L_cache", 3),
    Option(f"{IN_RECURRENT}.bias", "conv_bias", False),
]
LAYERNORM_NAMES = {"q_norm": "q_layernorm", "k_norm": "k_layernorm"}
LFM2 = kin(
    "lfm2",
    "Lfm2ForCausalLM",
    always={
        **ALWAYS,
        "ffn": {"name": "glu", "activation": {"name": "silu"}},
        "variants": recurrent_and_global(SHORT_CONV, LFM_HEADS),
    },
    options=[*LFM_OPTIONS, GLOBAL_ROPE, Option("ffn.width", "inner")],
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
            **recurrent_and_global(SHORT_CONV, LFM_HEADS),
            "dense": {"ffn": {"name": "glu", "activation": SILU}},
            "sparse": {"ffn": {"name": "moe", "expert": {"name": "glu", "activation": SILU}}},
        },
    },
    options=[
        *(*LFM_OPTIONS, GLOBAL_ROPE, WIDTH._replace(ours="variants.dense.ffn.width")),
        *(
            o
            for o in routed_options(SPARSE, "num_experts", scale="routed_scaling_factor")
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

LFM3_ROPES = ropes(sliding_attention=1e6, full_attention=1e6)
LFM3_HEADS = {**LFM_HEADS, "gate": "head"}
LFM3 = kin(
    "lfm3",
    "Lfm3ForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "position": {"name": "rope"},
        "ffn": {"name": "glu", "activation": SILU},
        "variants": {
            "recurrent": {"attention": SHORT_CONV, "position": {"name": "none"}},
            "local": {"attention": LFM3_HEADS, "position": {"name": "rope"}},
            "global": {"attention": LFM3_HEADS, "position": {"name": "rope"}},
        },
    },
    options=[
        *(
            *size_options(),
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
        Option(f"{IN_RECURRENT}.convolution", "conv_L_cache", 7),
        Option(f"{IN_RECURRENT}.bias", "conv_bias", False),
    ],
    rows=[
        *(*LFM_ENDS, *CONV_ROWS, *LFM_FFN, *only([*ATTENTION, *QK_NORMS], "softmax")),
        *only([Row((f"{MIX}.gate.weight",), f"{SELF_ATTN}.gate_proj.weight", SAME)], "softmax"),
        *norms(
            attention_input_norm="operator_norm",
            attention_output_norm="post_operator_norm",
            ffn_input_norm="ffn_norm",
            ffn_output_norm="post_ffn_norm",
        ),
    ],
    axes=(
        listed_axis(
            "layer_types",
            {"conv": "recurrent", "sliding_attention": "local", "full_attention": "global"},
            lambda layer: (
                "recurrent" if layer["attention"]["name"] == SHORT_CONV["name"] else local_or_global(layer)
            ),
        ),
    ),
    unpack=lambda config: lfm3(LFM3_ROPES["unpack"](config)),
    pack=lambda config: {k: v for k, v in LFM3_ROPES["pack"](config).items() if k != "rms_norm_eps"},
    must={"use_sandwich_norm": (True,), "use_attention_gate": (True,)},
)


def lfm3(config: dict[str, Any]) -> dict[str, Any]:
    """The norms of heads have the eps of all, and plain RoPE turns the whole head."""
    ropes = {
        key: plain_turns_whole(rope) for key, rope in config.items() if key.startswith("rope_parameters.")
    }
    return {**config, **ropes, "rms_norm_eps": config.get("norm_eps", 1e-5)}


# ----------------------------------------------------------------------------------------- Mamba-2

MAMBA = f"{THEIRS}.mamba"
MAMBA_PARTS = ("gate", "u", "key", "query", "step")
BAMBA_ROWS = [
    *linear_rows(tuple(f"{MIX}.{n}" for n in MAMBA_PARTS), f"{MAMBA}.in_proj", STACKED),
    *linear_rows(tuple(f"{MIX}.{n}_conv" for n in ("u", "key", "query")), f"{MAMBA}.conv1d", STACKED),
    *linear_rows(f"{MIX}.out", f"{MAMBA}.out_proj"),
    Row((f"{MIX}.log_rate",), f"{MAMBA}.A_log", SAME),
    Row((f"{MIX}.time_bias",), f"{MAMBA}.dt_bias", SAME),
    Row((f"{MIX}.skip",), f"{MAMBA}.D", SAME),
    Row((f"{MIX}.norms.{{g}}.weight",), f"{MAMBA}.norm.weight", STACKED),
]


def bamba(config: dict[str, Any]) -> dict[str, Any]:
    """Kinds of layers as words."""
    config = dict(config)
    depth, chosen = config.get("num_hidden_layers", 0), config.pop("attn_layer_indices", None) or []
    if not isinstance(chosen, list) or not isinstance(depth, int):
        raise CheckpointFormatError(f"attn_layer_indices is {shown(chosen)}, and should be a list")
    config["layer_types"] = ["attention" if n in chosen else "mamba" for n in range(min(depth, 100_000))]
    return implied_heads(config)


def implied_heads(config: dict[str, Any]) -> dict[str, Any]:
    """The number of Mamba-2's heads follows from the widths; its steps have no bounds."""
    config = dict(config)
    heads, width = config.pop("mamba_n_heads", None), config.get("mamba_d_head")
    wide = [config.get("mamba_expand"), config.get("hidden_size")]
    if None not in (heads, width, *wide) and heads * width != wide[0] * wide[1]:  # type: ignore[operator]
        raise CheckpointFormatError(f"mamba_n_heads is {shown(heads)}, which is not what mamba_expand makes")
    refuse_bounded(config.pop("time_step_limit", None))
    return config


def refuse_bounded(limit: Any) -> None:
    """Raises CheckpointFormatError for steps that are clamped."""
    unbounded = ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}])
    if limit is not None and (not isinstance(limit, list | tuple) or list(limit) not in unbounded):
        raise CheckpointFormatError(f"time_step_limit is {shown(limit)}; no option of ours bounds a step")


def unpointed(number: float) -> float | int:
    """A whole number without its point."""
    return int(number) if number == int(number) else number


def bamba_indices(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the layers of attention by number, and the heads that follow."""
    config = dict(config)
    found = config.pop("layer_types")
    chosen = [n for n, word in enumerate(found) if word == "attention"]
    return {**with_heads(config), "attn_layer_indices": chosen}


def with_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the number of Mamba-2's heads."""
    inner = round(config["mamba_expand"] * config["hidden_size"])
    return {**config, "mamba_n_heads": inner // config["mamba_d_head"]}


MAMBA2_OPTIONS = [
    Option(f"{IN_RECURRENT}.expand", "mamba_expand", 2, write=unpointed),
    Option(f"{IN_RECURRENT}.head_width", "mamba_d_head"),
    Option(f"{IN_RECURRENT}.state_width", "mamba_d_state"),
    Option(f"{IN_RECURRENT}.groups", "mamba_n_groups", 1),
    Option(f"{IN_RECURRENT}.convolution", "mamba_d_conv", 4),
    Option(f"{IN_RECURRENT}.convolution_bias", "mamba_conv_bias", True),
    Option(f"{IN_RECURRENT}.bias", "mamba_proj_bias", False),
]
BAMBA = kin(
    "bamba",
    "BambaForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "variants": recurrent_and_global({"name": "mamba2", "norm": {"name": "rmsnorm"}}),
    },
    options=[
        *(
            *size_options(),
            GLOBAL_KV_HEADS,
            GLOBAL_ROPE,
            EPS._replace(default=1e-5),
            UNTIED,
            BIAS,
            WIDTH,
            activation_option(),
        ),
        Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-5),
        *MAMBA2_OPTIONS,
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
    must=SILU_THROUGHOUT,
    unpack=bamba,
    pack=bamba_indices,
    harmless=("num_logits_to_keep", "mamba_chunk_size", "z_loss_coefficient"),
    rotary_fraction=0.5,
)


CONVOLUTION_FAMILIES: tuple[Family, ...] = (LFM2, LFM2_MOE, LFM3, BAMBA)
