"""Mamba and its kin: layers of one branch, and Jamba's."""

from collections.abc import Callable
from typing import Any

from ablate.model.hf.convolution import BAMBA_ROWS, MAMBA, refuse_bounded, unpointed
from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    same,
    shown,
)
from ablate.model.hf.hybrid import (
    GLOBAL_KV_HEADS,
    HEAD_DIM,
    IN_RECURRENT,
    MIX,
    SELF_ATTN,
    SILU_THROUGHOUT,
    only,
    recurrent_or_global,
)
from ablate.model.hf.llama import ALWAYS, ATTENTION, ENDS, EPS, FEED_FORWARD, LAYER, TIED, UNTIED, norms
from ablate.model.hf.llama_kin import PLAIN_MLP, kin
from ablate.model.hf.mixtures import JITTER, LATER, SPARSE, dense_and_sparse, moe
from ablate.model.hf.scored_mixtures import SIGMOID
from ablate.model.hf.state_space import MAMBA2
from ablate.model.hf.tables import (
    activation_option,
    depth_of,
    expert_rows,
    listed_axis,
    size_options,
    sparse_or_dense,
    whole_number,
)
from ablate.model.hf.words import flag

SINGLE: dict[str, Any] = {
    "norm": {"name": "rmsnorm", "offset": False},
    "placement": "pre",
    "topology": "single",
    "position": {"name": "none"},
    "ffn": {"name": "none"},
}
BACKBONE = "backbone.layers.{n}"
BACKBONE_ENDS = [
    Row(("embedding.weight",), "backbone.embeddings.weight", SAME),
    Row(("final_norm.weight",), "backbone.norm_f.weight", SAME),
    Row(("head.weight",), "lm_head.weight", SAME),
    Row((f"{LAYER}.residual.input_norm.weight",), f"{BACKBONE}.norm.weight", SAME),
]
MIXER_EPS = EPS._replace(theirs="layer_norm_epsilon", default=1e-5)
UNSAID_SIZES = [  # of which transformers knows nothing here, and keeps what it finds
    Option("width", "hidden_size"),
    Option("depth", "num_hidden_layers"),
    Option("heads", "num_attention_heads", 1),
    Option("vocab", "vocab_size"),
    Option("context", "max_position_embeddings", 2048),
]
STARTED = (  # keys of how a model starts
    *("time_step_max", "time_step_floor", "time_step_init_scheme", "time_step_scale", "residual_in_fp32"),
    *("rescale_prenorm_residual", "use_mambapy", "use_falcon_mambapy", "use_associative_scan", "chunk_size"),
)


def backboned(rows: list[Row]) -> list[Row]:
    """Rows of a mixer by the names of these families."""
    return [row._replace(theirs=row.theirs.replace(MAMBA, f"{BACKBONE}.mixer")) for row in rows]


# ----------------------------------------------------------------------------------------- Mamba-2


def inner_ratio(config: dict[str, Any], heads: str, width: str) -> dict[str, Any]:
    """The channels of Mamba-2 in widths of the model, from its heads. Raises CheckpointFormatError."""
    config = dict(config)
    numbers = [config.pop(heads, None), config.get(width), config.get("hidden_size")]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise CheckpointFormatError(f"{heads}, {width} and hidden_size are {shown(numbers)}; all are needed")
    return {**config, "inner_ratio": numbers[0] * numbers[1] / numbers[2]}


def inner_heads(config: dict[str, Any], heads: str, width: str) -> dict[str, Any]:
    """Back: the number of heads."""
    config = dict(config)
    return {**config, heads: round(config.pop("inner_ratio") * config["hidden_size"]) // config[width]}


def mamba2(config: dict[str, Any]) -> dict[str, Any]:
    """Heads as channels; `expand` says the same."""
    config = dict(config)
    refuse_bounded(config.pop("time_step_limit", None))
    expand = config.pop("expand", 2)
    config = inner_ratio({"num_heads": 128, "head_dim": 64, **config}, "num_heads", "head_dim")
    if config["inner_ratio"] != expand:
        raise CheckpointFormatError(
            f"expand is {shown(expand)}, and the heads make {config['inner_ratio']:g}"
        )
    return config


def mamba2_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: heads, and `expand` beside them."""
    return {**inner_heads(config, "num_heads", "head_dim"), "expand": unpointed(config["inner_ratio"])}


def mamba2_options(at: str, width: str, state: str, bias: str) -> list[Option]:
    """Those of a Mamba-2 mixer at this path."""
    return [
        Option(f"{at}.expand", "inner_ratio"),
        Option(f"{at}.head_width", width),
        Option(f"{at}.state_width", state, 128),
        Option(f"{at}.groups", "n_groups", 8),
        Option(f"{at}.convolution", "conv_kernel", 4),
        Option(f"{at}.convolution_bias", "use_conv_bias", True),
        Option(f"{at}.bias", bias, False),
        Option(f"{at}.norm.eps", "layer_norm_epsilon", 1e-5),
    ]


MAMBA2_FAMILY = kin(
    "mamba2",
    "Mamba2ForCausalLM",
    prefix="backbone.",
    always={**SINGLE, "attention": MAMBA2},
    options=[
        *(*UNSAID_SIZES, MIXER_EPS, UNTIED),
        *mamba2_options("attention", "head_dim", "state_size", "use_bias"),
    ],
    rows=[*BACKBONE_ENDS, *backboned(BAMBA_ROWS)],
    unpack=mamba2,
    pack=mamba2_back,
    must={"hidden_act": ("silu",)},
    harmless=(*STARTED, "time_step_rank", "time_step_min"),
)

# -------------------------------------------------------------------------------------- Nemotron-H

NEMOTRON_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
NEMOTRON_KINDS = {
    "linear_attention": "recurrent",
    "full_attention": "global",
    "mlp": "dense",
    "moe": "sparse",
    "mamba": "recurrent",
    "attention": "global",
}


def only_branch(layer: dict[str, Any]) -> str:
    """The kind of a layer by the branch that it has."""
    return sparse_or_dense(layer) if layer["attention"]["name"] == "none" else recurrent_or_global(layer)


def nemotron_h(config: dict[str, Any]) -> dict[str, Any]:
    """A word for each layer, which may be said in letters; the depth is as many."""
    config = dict(config)
    letters, words = config.pop("hybrid_override_pattern", None), config.get("layers_block_type")
    if words is None and isinstance(letters, str):
        words = [NEMOTRON_LETTERS.get(letter, letter) for letter in letters]
    if not isinstance(words, list) or not words:
        raise CheckpointFormatError(f"layers_block_type is {shown(words)}, and should be a list of words")
    config |= {"layers_block_type": words, "num_hidden_layers": len(words)}
    return inner_ratio(config, "mamba_num_heads", "mamba_head_dim")


SHARED_MLP_AT = f"{SPARSE}.shared_expert"
MIXED = f"{BACKBONE}.mixer"
NEMOTRON_H = kin(
    "nemotron_h",
    "NemotronHForCausalLM",
    prefix="backbone.",
    always={
        **SINGLE,
        "attention": {"name": "none"},
        "variants": {
            "recurrent": {"attention": MAMBA2},
            "global": {"attention": {"name": "softmax"}},
            "dense": {"ffn": PLAIN_MLP},
            "sparse": {"ffn": {"name": "moe", "expert": PLAIN_MLP, "shared": 1, "shared_expert": PLAIN_MLP}},
        },
    },
    options=[
        *(*size_options(), HEAD_DIM, MIXER_EPS, UNTIED, GLOBAL_KV_HEADS),
        *mamba2_options(IN_RECURRENT, "mamba_head_dim", "ssm_state_size", "use_bias"),
        Option(f"{IN_RECURRENT}.least_step", "time_step_min", 0.001),
        Option("variants.dense.ffn.width", "intermediate_size"),
        *(
            activation_option(at, "mlp_hidden_act", "relu2")
            for at in ("variants.dense.ffn", f"{SPARSE}.expert", SHARED_MLP_AT)
        ),
        *(
            Option(f"{at}.bias", "mlp_bias", False, *flag("up", "down"))
            for at in ("variants.dense.ffn", SHARED_MLP_AT)
        ),
        Option(f"{SPARSE}.experts", "n_routed_experts", 8),
        Option(f"{SPARSE}.top_k", "num_experts_per_tok", 2),
        Option(f"{SPARSE}.expert.width", "moe_intermediate_size", 7688),
        Option(f"{SHARED_MLP_AT}.width", "moe_shared_expert_intermediate_size", 7688),
        Option(f"{SPARSE}.routed_scale", "routed_scaling_factor", 1.0),
        Option(f"{SPARSE}.groups", "n_group", 1),
        Option(f"{SPARSE}.top_groups", "topk_group", 1),
        SIGMOID,
    ],
    rows=[
        *(*BACKBONE_ENDS, *only(backboned(BAMBA_ROWS), "mamba2")),
        *only([row._replace(theirs=row.theirs.replace(SELF_ATTN, MIXED)) for row in ATTENTION], "softmax"),
        *only(
            [
                *linear_rows(f"{LAYER}.ffn.up", f"{MIXED}.up_proj"),
                *linear_rows(f"{LAYER}.ffn.down", f"{MIXED}.down_proj"),
                *linear_rows(f"{LAYER}.ffn.router", f"{MIXED}.gate"),
                Row((f"{LAYER}.ffn.bias",), f"{MIXED}.gate.e_score_correction_bias", SAME),
                *(
                    row
                    for n in ("up", "down")
                    for row in (
                        *linear_rows(f"{LAYER}.ffn.experts.{{e}}.{n}", f"{MIXED}.experts.{{e}}.{n}_proj"),
                        *linear_rows(f"{LAYER}.ffn.shared.0.{n}", f"{MIXED}.shared_experts.{n}_proj"),
                    )
                ),
            ],
            "none",
        ),
    ],
    axes=(listed_axis("layers_block_type", NEMOTRON_KINDS, only_branch),),
    unpack=nemotron_h,
    pack=lambda config: inner_heads(config, "mamba_num_heads", "mamba_head_dim"),
    must={"mamba_hidden_act": ("silu",), "moe_latent_size": (None,), "sliding_window": (None,)},
    harmless=(
        *(*JITTER, *LATER, *STARTED, "time_step_limit", "expand", "n_shared_experts", "hidden_dropout"),
        *(
            "mamba_ssm_cache_dtype",
            "moe_shared_expert_overlap",
            "mtp_layers_block_type",
            "num_logits_to_keep",
        ),
        *("use_mamba_kernels", "mamba_proj_bias", "attention_bias", "mtp_hybrid_override_pattern"),
    ),
)

# ----------------------------------------------------------------------------------------- Mamba-1


def rank_of(said: Any) -> Any:
    """Null, a sixteenth of the width, for `auto`."""
    return None if said == "auto" else said


def with_rank(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`unpack` of a rank of the step that may be `auto`."""
    return lambda config: {**config, key: rank_of(config.get(key, "auto"))}


def rank_said(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Back: `auto` where no rank is given."""
    return lambda config: {**config, key: config[key] or "auto"}


MAMBA1_ROWS = [
    *linear_rows((f"{MIX}.u", f"{MIX}.gate"), f"{MAMBA}.in_proj", STACKED),
    *linear_rows(f"{MIX}.conv", f"{MAMBA}.conv1d"),
    Row(
        tuple(f"{MIX}.{name}.weight" for name in ("step_down", "key", "query")),
        f"{MAMBA}.x_proj.weight",
        STACKED,
    ),
    *linear_rows(f"{MIX}.step_up", f"{MAMBA}.dt_proj"),
    *linear_rows(f"{MIX}.out", f"{MAMBA}.out_proj"),
    Row((f"{MIX}.log_rate",), f"{MAMBA}.A_log", SAME),
    Row((f"{MIX}.skip",), f"{MAMBA}.D", SAME),
    *(
        Row((f"{MIX}.{ours}_norm.weight",), f"{MAMBA}.{theirs}_layernorm.weight", SAME)
        for ours, theirs in (("step", "dt"), ("key", "b"), ("query", "c"))
    ),
]
MAMBA1_KEYS = {
    "expand": "expand",
    "state_width": "state_size",
    "step_rank": "time_step_rank",
    "convolution": "conv_kernel",
    "convolution_bias": "use_conv_bias",
    "bias": "use_bias",
}
MAMBA1_USUAL = {
    "expand": 2,
    "state_width": 16,
    "step_rank": None,
    "convolution": 4,
    "convolution_bias": True,
    "bias": False,
}


def mamba1_options(at: str, keys: dict[str, str]) -> list[Option]:
    """Those of a Mamba-1 mixer at this path, by their keys."""
    ways = {"step_rank": (rank_of, same), "expand": (same, unpointed)}
    return [Option(f"{at}.{k}", key, MAMBA1_USUAL[k], *ways.get(k, (same, same))) for k, key in keys.items()]


MAMBA_FAMILY = kin(
    "mamba",
    "MambaForCausalLM",
    prefix="backbone.",
    always={**SINGLE, "attention": {"name": "mamba", "norm": {"name": "none"}}},
    options=[*UNSAID_SIZES, MIXER_EPS, TIED, *mamba1_options("attention", MAMBA1_KEYS)],
    rows=[*BACKBONE_ENDS, *backboned(MAMBA1_ROWS)],
    unpack=with_rank("time_step_rank"),
    pack=rank_said("time_step_rank"),
    must={"hidden_act": ("silu",)},
    harmless=(*STARTED, "time_step_min", "intermediate_size"),
)
FALCON_MAMBA = kin(
    "falcon_mamba",
    "FalconMambaForCausalLM",
    MAMBA_FAMILY,
    always={**SINGLE, "attention": {"name": "mamba", "norm": {"name": "rmsnorm", "weight": False}}},
    options=[*MAMBA_FAMILY.options, Option("attention.norm.eps", "mixer_rms_eps", 1e-6)],
    harmless=MAMBA_FAMILY.harmless,
)

# ------------------------------------------------------------------------------------------- Jamba


def periodic_axis(
    word: str, usual: tuple[int, int], on: str, off: str, kind: Callable[[dict[str, Any]], str]
) -> Axis:
    """An axis of a period and an offset: layers of the kind `on` where n mod period is the offset."""
    keys = (f"{word}_layer_period", f"{word}_layer_offset")

    def read(config: dict[str, Any]) -> list[str]:
        period, offset = (whole_number(config, *said) for said in zip(keys, usual, strict=True))
        return [on if n % max(period, 1) == offset else off for n in range(depth_of(config))]

    def write(kinds: list[str]) -> dict[str, Any]:
        found = [n for n, this in enumerate(kinds) if this == on]
        first, *more = found or [len(kinds)]
        period = more[0] - first if more else max(len(kinds), first + 1)
        return {keys[0]: period, keys[1]: first}

    return Axis(keys, read, write, kind)


JAMBA_KEYS = {
    "expand": "mamba_expand",
    "state_width": "mamba_d_state",
    "step_rank": "mamba_dt_rank",
    "convolution": "mamba_d_conv",
    "convolution_bias": "mamba_conv_bias",
    "bias": "mamba_proj_bias",
}
JAMBA_WIDTHS = ("variants.dense.ffn.width", f"{SPARSE}.expert.width")
JAMBA = kin(
    "jamba",
    "JambaForCausalLM",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "position"},
        "position": {"name": "none"},
        "variants": {
            "recurrent": {"attention": {"name": "mamba", "norm": {"name": "rmsnorm"}}},
            "global": {"attention": {"name": "softmax"}},
            **dense_and_sparse(moe("all")),
        },
    },
    options=[
        *(*size_options(), GLOBAL_KV_HEADS._replace(default=8), EPS, UNTIED),
        *mamba1_options(IN_RECURRENT, JAMBA_KEYS),
        Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-6),
        *(Option(at, "intermediate_size", 14336) for at in JAMBA_WIDTHS),
        *(activation_option(at) for at in ("variants.dense.ffn", f"{SPARSE}.expert")),
        Option(f"{SPARSE}.experts", "num_experts", 16),
        Option(f"{SPARSE}.top_k", "num_experts_per_tok", 2),
    ],
    rows=[
        *(row._replace(theirs=row.theirs.replace("model.norm.", "model.final_layernorm.")) for row in ENDS),
        *norms(attention_input_norm="input_layernorm", ffn_input_norm="pre_ff_layernorm"),
        *(*only(ATTENTION, "softmax"), *only(MAMBA1_ROWS, "mamba")),
        *(row._replace(theirs=row.theirs.replace(".mlp.", ".feed_forward.")) for row in FEED_FORWARD),
        *expert_rows("feed_forward.experts", router="feed_forward.router"),
    ],
    axes=(
        periodic_axis("attn", (8, 4), "global", "recurrent", recurrent_or_global),
        periodic_axis("expert", (2, 1), "sparse", "dense", sparse_or_dense),
    ),
    must=SILU_THROUGHOUT,
    unpack=with_rank("mamba_dt_rank"),
    pack=rank_said("mamba_dt_rank"),
    harmless=(*JITTER, *STARTED, "use_mamba_kernels", "num_logits_to_keep", "num_local_experts"),
)

MAMBA_KIN_FAMILIES: tuple[Family, ...] = (MAMBA2_FAMILY, NEMOTRON_H, MAMBA_FAMILY, FALCON_MAMBA, JAMBA)
