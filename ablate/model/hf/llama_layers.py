"""Dense families whose layers differ: windows, positions of two kinds, none."""

from typing import Any

from ablate.model.hf.family import (
    CheckpointFormatError,
    Option,
    shown,
)
from ablate.model.hf.llama import (
    ACTIVATION,
    ALWAYS,
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    EPS,
    FEED_FORWARD,
    GEMMA2,
    HEAD_WIDTH,
    OLMO2,
    QK_NORM,
    QK_NORMS,
    TIED,
    UNTIED,
    WIDTH,
    norms,
)
from ablate.model.hf.llama_kin import (
    COMMON,
    GLU_BIAS,
    HEAD_NORMS,
    LAYERNORM_EPS,
    LLAMA_SIZES,
    LOCAL_AND_GLOBAL,
    NOPE_GLOBAL,
    WINDOW,
    kin,
)
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import (
    INTERLEAVED,
    ROPE,
    all_full,
    every,
    listed_axis,
    ropes_by_type,
    windowed,
    windowed_by,
)

# ---------------------------------------------------------------------------- layers that differ

MINISTRAL = kin(
    "ministral",
    "MinistralForCausalLM",
    always={**ALWAYS, "variants": LOCAL_AND_GLOBAL},
    options=[*COMMON, UNTIED, WINDOW],
    axes=(windowed(),),
)
CWM = kin(
    "cwm",
    "CwmForCausalLM",
    always={**ALWAYS, "variants": LOCAL_AND_GLOBAL},
    options=[*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, EPS._replace(default=1e-5), UNTIED, WINDOW],
    axes=(windowed(),),
    theta=1e6,
)
SMOLLM3 = kin(
    "smollm3",
    "SmolLM3ForCausalLM",
    always={
        **ALWAYS,
        "variants": {"rope": {"position": {"name": "rope"}}, "nope": {"position": {"name": "none"}}},
    },
    options=[
        *(*LLAMA_SIZES, ROPE._replace(ours="variants.rope.position"), WIDTH, ACTIVATION, EPS, TIED),
        *(ATTENTION_BIAS, GLU_BIAS),
    ],
    axes=(
        listed_axis(
            "no_rope_layers",
            {1: "rope", 0: "nope"},
            lambda layer: "nope" if layer["position"]["name"] == "none" else "rope",
        ),
    ),
    must={"use_sliding_window": (False,)},
    unpack=all_full,
    harmless=("no_rope_layer_interval",),
    theta=2_000_000.0,
)


def ropes(fractions: float = 1.0, **thetas: float) -> dict[str, Any]:
    """`unpack` and `pack` of a family with a position for each kind of layer."""
    unpack, pack = ropes_by_type(thetas, fractions)
    return {"unpack": unpack, "pack": pack}


LOCAL_ROPES = [
    Option(f"variants.{ours}.position", f"rope_parameters.{theirs}", read=read_rope, write=write_rope)
    for ours, theirs in (("local", "sliding_attention"), ("global", "full_attention"))
]
TWO_ROPES: dict[str, Any] = {kind: {"position": {"name": "rope"}} for kind in ("local", "global")}
OLMO3 = kin(
    "olmo3",
    "Olmo3ForCausalLM",
    OLMO2,
    always={**OLMO2.always, "variants": TWO_ROPES},
    options=[
        *(*LLAMA_SIZES, *LOCAL_ROPES, WIDTH, ACTIVATION, ATTENTION_BIAS, UNTIED, WINDOW),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
    ],
    axes=(windowed(every(4)),),
    **ropes(sliding_attention=500_000.0, full_attention=500_000.0),
)


def gemma3_types(config: dict[str, Any]) -> dict[str, Any]:
    """Both positions, and no option that this family's code does not have."""
    return ropes(sliding_attention=10_000.0, full_attention=1e6)["unpack"](config)  # type: ignore[no-any-return]


GEMMA_SCALE = next(option for option in GEMMA2.options if option.ours == "attention.scale")
GEMMA_ACTIVATION = next(option for option in GEMMA2.options if option.ours == "ffn.activation")
GEMMA3 = kin(
    "gemma3_text",
    "Gemma3ForCausalLM",
    GEMMA2,
    always={
        **GEMMA2.always,
        "attention": {**HEAD_NORMS, "qk_norm": {"name": "rmsnorm", "offset": True}},
        "variants": TWO_ROPES,
    },
    options=[
        *(
            *LLAMA_SIZES,
            *LOCAL_ROPES,
            HEAD_WIDTH._replace(default=256),
            WIDTH,
            GEMMA_ACTIVATION,
            EPS,
            QK_NORM,
        ),
        *(ATTENTION_BIAS, TIED, WINDOW, GEMMA_SCALE),
        Option("head.softcap", "final_logit_softcapping", None),
        Option("attention.softcap", "attn_logit_softcapping", None),
    ],
    rows=[*GEMMA2.rows, *QK_NORMS],
    unpack=gemma3_types,
    pack=ropes(sliding_attention=10_000.0, full_attention=1e6)["pack"],
    windows=None,
    axes=(windowed_by("sliding_window_pattern", 6),),
    harmless=("_sliding_window_pattern", "cache_implementation"),
)
VAULTGEMMA = kin(
    "vaultgemma",
    "VaultGemmaForCausalLM",
    GEMMA2,
    always={**GEMMA2.always, "placement": "pre", "variants": LOCAL_AND_GLOBAL},
    options=[*(o for o in GEMMA2.options if o.ours != "attention.window"), WINDOW],
    rows=[
        *(*ENDS, *ATTENTION, *FEED_FORWARD),
        *norms(attention_input_norm="input_layernorm", ffn_input_norm="pre_feedforward_layernorm"),
    ],
    unpack=lambda config: config,
    pack=lambda config: config,
    windows=None,
    axes=(windowed(lambda n, config: "full_attention" if n % 2 else "sliding_attention"),),
    must={},
)


def exaone_types(config: dict[str, Any]) -> dict[str, Any]:
    """Without a window anywhere, all layers turn, and this table cannot say that."""
    kinds, window = config.get("layer_types"), config.get("sliding_window")
    if isinstance(kinds, list) and "full_attention" in kinds and window is None:
        raise CheckpointFormatError(
            f"sliding_window is {shown(window)}: then every layer has the position, also those that see all"
        )
    return config


def exaone_window(config: dict[str, Any]) -> dict[str, Any]:
    """A window must be said even where no layer has one."""
    return {**config, "sliding_window": config["sliding_window"] or config["max_position_embeddings"]}


LOCAL_ROPE = ROPE._replace(ours="variants.local.position")
EXAONE4 = kin(
    "exaone4",
    "Exaone4ForCausalLM",
    always={**ALWAYS, "placement": "output", "attention": HEAD_NORMS, "variants": NOPE_GLOBAL},
    options=[
        *(*LLAMA_SIZES, LOCAL_ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, UNTIED, WINDOW),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
    ],
    rows=[*OLMO2.rows],
    unpack=exaone_types,
    pack=exaone_window,
    axes=(windowed_by("sliding_window_pattern", 4),),
)

# ---------------------------------------------------------------------------------------- Cohere

COHERE_NORM = {"name": "layernorm", "bias": False}
LOGIT_SCALE = Option("head.multiplier", "logit_scale", 0.0625)
COHERE_ROWS = [*ENDS, *norms(attention_input_norm="input_layernorm"), *ATTENTION, *FEED_FORWARD]
COHERE = kin(
    "cohere",
    "CohereForCausalLM",
    always={
        **ALWAYS,
        "norm": COHERE_NORM,
        "topology": "parallel",
        "position": {"name": "rope", "rotary_fraction": 1.0, "interleaved": True},
    },
    options=[
        *(*LLAMA_SIZES, INTERLEAVED, WIDTH, ACTIVATION, LAYERNORM_EPS, ATTENTION_BIAS, TIED, LOGIT_SCALE),
    ],
    rows=COHERE_ROWS,
    must={"use_qk_norm": (False,)},
    theta=500_000.0,
)
COHERE2 = kin(
    "cohere2",
    "Cohere2ForCausalLM",
    COHERE,
    always={
        **COHERE.always,
        "variants": {
            "local": {"position": {"name": "rope", "interleaved": True}},
            "global": {"position": {"name": "none"}},
        },
    },
    options=[
        *(*LLAMA_SIZES, INTERLEAVED._replace(ours="variants.local.position"), HEAD_WIDTH, WIDTH, ACTIVATION),
        *(LAYERNORM_EPS, ATTENTION_BIAS, TIED, LOGIT_SCALE, WINDOW),
    ],
    axes=(windowed_by("sliding_window_pattern", 4),),
    must={},
    harmless=(),
    theta=10_000.0,
)


def multiplier(value: Any) -> float:
    """Null is 1."""
    return 1.0 if value is None else value


COHERE_COMPASS = kin(
    "cohere_compass_text",
    "CohereCompassForCausalLM",
    COHERE,
    always={**COHERE.always, "position": ALWAYS["position"], "variants": TWO_ROPES},
    options=[
        *(
            *LLAMA_SIZES,
            HEAD_WIDTH,
            WIDTH,
            ACTIVATION,
            LAYERNORM_EPS,
            ATTENTION_BIAS,
            TIED,
            WINDOW,
            *LOCAL_ROPES,
        ),
        LOGIT_SCALE._replace(default=None, read=multiplier),
    ],
    axes=(windowed(lambda n, config: "full_attention"),),
    must={"pooling": (None,)},
    **ropes(sliding_attention=10_000.0, full_attention=10_000.0),
)


def ministral3_temperature(config: dict[str, Any]) -> dict[str, Any]:
    """The temperature of queries, which stands among the parameters of RoPE."""
    config = {"query_growth": 0.0, "query_floor": 8192, **config}
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(config.get(key), dict):
            rope = dict(config[key])
            config["query_growth"] = rope.pop("llama_4_scaling_beta", config["query_growth"])
            config["query_floor"] = rope.get("original_max_position_embeddings") or config["query_floor"]
            rope.pop("max_position_embeddings", None)
            config[key] = rope
    return config


def ministral3_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the temperature among the parameters of RoPE."""
    config = dict(config)
    growth, floor = config.pop("query_growth"), config.pop("query_floor")
    for key in ("rope_parameters", "rope_scaling"):
        if config[key] is not None:
            said = {"original_max_position_embeddings": floor, "llama_4_scaling_beta": growth}
            config[key] = {**said, **config[key]}
    return config


MINISTRAL3 = kin(
    "ministral3",
    "Ministral3ForCausalLM",
    always={**ALWAYS, "attention": {"name": "softmax", "temperature_shift": False}},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, EPS._replace(default=1e-5), UNTIED),
        Option("attention.window", "sliding_window", None),
        Option("attention.temperature", "query_growth", 0.0),
        Option("attention.temperature_floor", "query_floor", 8192),
    ],
    unpack=ministral3_temperature,
    pack=ministral3_rope,
)


LLAMA_LAYERS_FAMILIES = (
    *(MINISTRAL, CWM, SMOLLM3, OLMO3, GEMMA3, VAULTGEMMA, EXAONE4),
    *(COHERE, COHERE2, COHERE_COMPASS, MINISTRAL3),
)
