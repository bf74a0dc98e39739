"""LLaMA, and the families that grew from it: Mistral, Mixtral, Qwen2, Qwen3, Gemma, Gemma 2, OLMo, OLMo 2."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ablate.model.hf.family import SAME, CheckpointFormatError, Family, Option, Row, linear_rows, same, shown
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import flag, read_activation, write_activation

MOST_LAYERS = 100_000
LAYER = "layers.{n}"
THEIRS = "model.layers.{n}"

ATTENTION = [
    *linear_rows(f"{LAYER}.attention.q", f"{THEIRS}.self_attn.q_proj"),
    *linear_rows(f"{LAYER}.attention.k", f"{THEIRS}.self_attn.k_proj"),
    *linear_rows(f"{LAYER}.attention.v", f"{THEIRS}.self_attn.v_proj"),
    *linear_rows(f"{LAYER}.attention.out", f"{THEIRS}.self_attn.o_proj"),
]
QK_NORMS = [
    Row((f"{LAYER}.attention.q_norm.weight",), f"{THEIRS}.self_attn.q_norm.weight", SAME),
    Row((f"{LAYER}.attention.k_norm.weight",), f"{THEIRS}.self_attn.k_norm.weight", SAME),
]
FEED_FORWARD = [
    *linear_rows(f"{LAYER}.ffn.gate", f"{THEIRS}.mlp.gate_proj"),
    *linear_rows(f"{LAYER}.ffn.up", f"{THEIRS}.mlp.up_proj"),
    *linear_rows(f"{LAYER}.ffn.down", f"{THEIRS}.mlp.down_proj"),
]
ENDS = [
    Row(("embedding.weight",), "model.embed_tokens.weight", SAME),
    Row(("final_norm.weight",), "model.norm.weight", SAME),
    Row(("head.weight",), "lm_head.weight", SAME),
]


def norms(**slots: str) -> list[Row]:
    """`attention_input_norm="input_layernorm"`: which norm of theirs stands in which slot of ours."""
    return [
        Row((f"{LAYER}.{'_residual.'.join(ours.split('_', 1))}.weight",), f"{THEIRS}.{theirs}.weight", SAME)
        for ours, theirs in slots.items()
    ]


PRE = norms(attention_input_norm="input_layernorm", ffn_input_norm="post_attention_layernorm")


def shape(context: int = 2048, kv_heads: int | None = None) -> list[Option]:
    """The options of size, with what a missing key means to the family."""
    return [
        Option("width", "hidden_size"),
        Option("depth", "num_hidden_layers"),
        Option("heads", "num_attention_heads"),
        Option("vocab", "vocab_size"),
        Option("context", "max_position_embeddings", context),
        Option("attention.kv_heads", "num_key_value_heads", kv_heads),
        Option("position", "rope_parameters", read=read_rope, write=write_rope),
    ]


HEAD_WIDTH = Option("head_width", "head_dim", None)
WIDTH = Option("ffn.width", "intermediate_size")
ACTIVATION = Option("ffn.activation", "hidden_act", "silu", read_activation, write_activation)
EPS = Option("norm.eps", "rms_norm_eps", 1e-6)
ATTENTION_BIAS = Option("attention.bias", "attention_bias", False, *flag("q", "k", "v", "out"))
UNTIED = Option("head.tied", "tie_word_embeddings", False)
TIED = Option("head.tied", "tie_word_embeddings", True)
ALWAYS: dict[str, Any] = {
    "norm": {"name": "rmsnorm", "offset": False},
    "placement": "pre",
    "topology": "serial",
    "position": {"name": "rope", "rotary_fraction": 1.0},
    "attention": {"name": "softmax"},
    "ffn": {"name": "glu"},
}
QK_NORM = Option("attention.qk_norm.eps", "rms_norm_eps", 1e-6)
CLIP = Option("attention.clip_qkv", "clip_qkv", None)


LAYER_TYPES = ("sliding_attention", "full_attention")


def layered_windows(config: dict[str, Any]) -> list[int | None]:
    """The window of each layer, from `layer_types`. Raises CheckpointFormatError."""
    window, kinds, depth = config["sliding_window"], config["layer_types"], config["num_hidden_layers"]
    if not isinstance(kinds, list) or any(kind not in LAYER_TYPES for kind in kinds):
        raise CheckpointFormatError(
            f"layer_types is {shown(kinds)}, and should be a list of {' and '.join(LAYER_TYPES)}"
        )
    if len(kinds) != depth:
        raise CheckpointFormatError(
            f"layer_types names {len(kinds)} layers, num_hidden_layers {shown(depth)}"
        )
    if LAYER_TYPES[0] in kinds and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise CheckpointFormatError(
            f"layer_types has layers with a window, and sliding_window is {shown(window)}"
        )
    return [window if kind == LAYER_TYPES[0] else None for kind in kinds]


def whole(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A whole number that other keys are worked out from. Raises CheckpointFormatError."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_LAYERS:
        raise CheckpointFormatError(
            f"{key} is {shown(value)}, and should be a whole number up to {MOST_LAYERS}"
        )
    return value


def qwen_layers(config: dict[str, Any]) -> dict[str, Any]:
    """`layer_types`, where a config only says from which layer on the window is used."""
    config = dict(config)
    used = config.pop("use_sliding_window", False)
    if not isinstance(used, bool):
        raise CheckpointFormatError(f"use_sliding_window is {shown(used)}, and should be true or false")
    first = whole({"max_window_layers": config.pop("max_window_layers", 28)}, "max_window_layers")
    window = config["sliding_window"] = config.get("sliding_window", 4096) if used else None
    if config.get("layer_types") is None:
        config["layer_types"] = [
            LAYER_TYPES[0] if window is not None and n >= first else LAYER_TYPES[1]
            for n in range(whole(config, "num_hidden_layers"))
        ]
    return config


def qwen_windows(config: dict[str, Any]) -> dict[str, Any]:
    """Qwen's switch beside its window, for an export."""
    return {**config, "use_sliding_window": config["sliding_window"] is not None}


def gemma2_layers(config: dict[str, Any]) -> dict[str, Any]:
    """`layer_types`, every second layer with a window where there are none; one name for the activation."""
    depth = whole(config, "num_hidden_layers")
    types = config.get("layer_types")
    if types is None:
        types = [LAYER_TYPES[n % 2] for n in range(depth)]
    config = one_activation(config, "hidden_activation", "hidden_act", same)
    return {**config, "layer_types": types, "sliding_window": config.get("sliding_window", 4096)}


def gemma2_windows(config: dict[str, Any]) -> dict[str, Any]:
    """transformers makes a mask with a window even where no layer uses it, so there must be one."""
    return {**config, "sliding_window": config["sliding_window"] or config["max_position_embeddings"]}


def legacy_gelu(name: str) -> str:
    """Gemma's first configs say gelu and mean the approximation by tanh."""
    return "gelu_pytorch_tanh" if name == "gelu" else name


def read_gemma_activation(name: str) -> dict[str, Any]:
    """Our activation for Gemma's name of it."""
    return read_activation(legacy_gelu(name))


def write_gemma_activation(activation: dict[str, Any]) -> str:
    """Gemma's name for our activation."""
    return {"gelu_new": "gelu_pytorch_tanh"}.get(name := write_activation(activation), name)


def one_activation(
    config: dict[str, Any], counts: str, other: str, meaning: Callable[[str], str]
) -> dict[str, Any]:
    """Gemma's configs may name the activation twice, and transformers looks at one of the names (`counts`).

    Raises CheckpointFormatError where the other one says something else, since other readers may follow that.
    """
    config = dict(config)
    second = config.pop(other, None)
    first = config.setdefault(counts, "gelu_pytorch_tanh")
    if second is not None and read_activation(second) != read_activation(meaning(first)):
        raise CheckpointFormatError(
            f"{other} is {shown(second)}, but transformers reads {counts}, {shown(first)}; take {other} out"
        )
    return config


def gemma_activation(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma's two keys for one activation, joined."""
    return one_activation(config, "hidden_act", "hidden_activation", legacy_gelu)


def read_scale(width: Any) -> float:
    """The factor of scores that belongs to `query_pre_attn_scalar`."""
    if width is None or width <= 0:
        raise CheckpointFormatError(
            f"query_pre_attn_scalar is {shown(width)}, and should be a number above 0"
        )
    scale: float = float(width) ** -0.5
    return scale


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    always=ALWAYS,
    options=[
        *shape(),
        *(HEAD_WIDTH, WIDTH, ACTIVATION, EPS, ATTENTION_BIAS, UNTIED),
        Option("ffn.bias", "mlp_bias", False, *flag("gate", "up", "down")),
    ],
    rows=[*ENDS, *PRE, *ATTENTION, *FEED_FORWARD],
    prefix="model.",
    whole_heads=True,
)
MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    options=[
        *shape(131_072, 8),
        *(HEAD_WIDTH, WIDTH, ACTIVATION, EPS, UNTIED),
        Option("attention.window", "sliding_window", 4096),
    ],
    whole_heads=False,
)
MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    architecture="MixtralForCausalLM",
    always={
        **ALWAYS,
        "ffn": {"name": "moe", "normalisation": "selected", "shared": 0, "expert": {"name": "glu"}},
    },
    options=[
        *shape(131_072, 8),
        *(HEAD_WIDTH, UNTIED, EPS._replace(default=1e-5)),
        Option("ffn.expert.width", "intermediate_size"),
        ACTIVATION._replace(ours="ffn.expert.activation"),
        Option("ffn.experts", "num_local_experts", 8),
        Option("ffn.top_k", "num_experts_per_tok", 2),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION),
        Row((f"{LAYER}.ffn.router.weight",), f"{THEIRS}.block_sparse_moe.gate.weight", SAME),
        *linear_rows(f"{LAYER}.ffn.experts.{{e}}.gate", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w1"),
        *linear_rows(f"{LAYER}.ffn.experts.{{e}}.up", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w3"),
        *linear_rows(f"{LAYER}.ffn.experts.{{e}}.down", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w2"),
    ],
    harmless=("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    grain=8,
    theta=1e6,
    whole_heads=False,
)
QWEN2 = replace(
    LLAMA,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    always={**ALWAYS, "attention": {"name": "softmax", "bias": ["q", "k", "v"]}},
    options=[*shape(32_768, 32), WIDTH, ACTIVATION, EPS, UNTIED],
    unpack=qwen_layers,
    pack=qwen_windows,
    windows=layered_windows,
    harmless=(),
    whole_heads=False,
)
QWEN3 = replace(
    QWEN2,
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    always={
        **ALWAYS,
        "attention": {
            "name": "softmax",
            "qk_norm": {"name": "rmsnorm", "offset": False},
            "qk_norm_over": "head",
        },
    },
    options=[
        *shape(32_768, 32),
        *(HEAD_WIDTH._replace(default=128), WIDTH, ACTIVATION, EPS, QK_NORM, ATTENTION_BIAS, UNTIED),
    ],
    rows=[*ENDS, *PRE, *ATTENTION, *QK_NORMS, *FEED_FORWARD],
)
GEMMA = replace(
    LLAMA,
    name="gemma",
    architecture="GemmaForCausalLM",
    always={**ALWAYS, "norm": {"name": "rmsnorm", "offset": True}, "embedding": {"scale": "sqrt_width"}},
    options=[
        *shape(8192, 16),
        *(HEAD_WIDTH._replace(default=256), WIDTH, EPS, ATTENTION_BIAS, TIED),
        Option("ffn.activation", "hidden_act", "gelu", read_gemma_activation, write_gemma_activation),
    ],
    unpack=gemma_activation,
    must={"use_bidirectional_attention": (None, False)},
    harmless=(),
    whole_heads=False,
)
GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    always={**GEMMA.always, "placement": "sandwich"},
    options=[
        *shape(8192, 4),
        *(HEAD_WIDTH._replace(default=256), WIDTH, EPS, ATTENTION_BIAS, TIED),
        ACTIVATION._replace(theirs="hidden_activation", default="gelu_pytorch_tanh"),
        Option("attention.softcap", "attn_logit_softcapping", 50.0),
        Option("head.softcap", "final_logit_softcapping", 30.0),
        Option(
            "attention.scale",
            "query_pre_attn_scalar",
            256,
            read=read_scale,
            write=lambda scale: round(scale**-2),
        ),
    ],
    rows=[
        *ENDS,
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_attention_layernorm",
            ffn_input_norm="pre_feedforward_layernorm",
            ffn_output_norm="post_feedforward_layernorm",
        ),
        *(*ATTENTION, *FEED_FORWARD),
    ],
    unpack=gemma2_layers,
    pack=gemma2_windows,
    windows=layered_windows,
    harmless=("cache_implementation",),
    whole_heads=True,
)
OLMO = replace(
    LLAMA,
    name="olmo",
    architecture="OlmoForCausalLM",
    always={**ALWAYS, "norm": {"name": "layernorm", "weight": False, "bias": False, "eps": 1e-5}},
    options=[*shape(), WIDTH, ACTIVATION, ATTENTION_BIAS, UNTIED, CLIP],
    whole_heads=False,
)
OLMO2 = replace(
    LLAMA,
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    always={
        **ALWAYS,
        "placement": "output",
        "attention": {
            "name": "softmax",
            "qk_norm": {"name": "rmsnorm", "offset": False},
            "qk_norm_over": "width",
        },
    },
    options=[
        *shape(),
        *(WIDTH, ACTIVATION, EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
        *(ATTENTION_BIAS, UNTIED),
    ],
    rows=[
        *ENDS,
        *norms(
            attention_output_norm="post_attention_layernorm", ffn_output_norm="post_feedforward_layernorm"
        ),
        *(*ATTENTION, *QK_NORMS, *FEED_FORWARD),
    ],
    whole_heads=False,
)
