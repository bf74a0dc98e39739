"""LLaMA, and the families that grew from it: Mistral, Mixtral, Qwen2, Qwen3, Gemma, Gemma 2, OLMo, OLMo 2."""

from dataclasses import replace
from typing import Any

from ablate.model.hf.family import SAME, Family, Option, Row, linear
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import flag, read_activation, write_activation

LAYER = "layers.{n}"
THEIRS = "model.layers.{n}"

ATTENTION = [
    *linear(f"{LAYER}.attention.q", f"{THEIRS}.self_attn.q_proj"),
    *linear(f"{LAYER}.attention.k", f"{THEIRS}.self_attn.k_proj"),
    *linear(f"{LAYER}.attention.v", f"{THEIRS}.self_attn.v_proj"),
    *linear(f"{LAYER}.attention.out", f"{THEIRS}.self_attn.o_proj"),
]
QK_NORMS = [
    Row((f"{LAYER}.attention.q_norm.weight",), f"{THEIRS}.self_attn.q_norm.weight", SAME),
    Row((f"{LAYER}.attention.k_norm.weight",), f"{THEIRS}.self_attn.k_norm.weight", SAME),
]
FEED_FORWARD = [
    *linear(f"{LAYER}.ffn.gate", f"{THEIRS}.mlp.gate_proj"),
    *linear(f"{LAYER}.ffn.up", f"{THEIRS}.mlp.up_proj"),
    *linear(f"{LAYER}.ffn.down", f"{THEIRS}.mlp.down_proj"),
]
ENDS = [
    Row(("embedding.weight",), "model.embed_tokens.weight", SAME),
    Row(("final_norm.weight",), "model.norm.weight", SAME),
    Row(("head.weight",), "lm_head.weight", SAME),
]


def norms(**slots: str) -> list[Row]:
    """`attention_inside="input_layernorm"`: which norm of theirs stands in which slot of ours."""
    return [
        Row((f"{LAYER}.{'_residual.'.join(ours.split('_'))}.weight",), f"{THEIRS}.{theirs}.weight", SAME)
        for ours, theirs in slots.items()
    ]


PRE = norms(attention_inside="input_layernorm", ffn_inside="post_attention_layernorm")
SHAPE = [
    Option("width", "hidden_size"),
    Option("depth", "num_hidden_layers"),
    Option("heads", "num_attention_heads"),
    Option("vocab", "vocab_size"),
    Option("context", "max_position_embeddings", 2048),
    Option("attention.kv_heads", "num_key_value_heads", None),
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


def layered_windows(config: dict[str, Any]) -> list[int | None]:
    """The window of each layer, from `layer_types`."""
    window = config["sliding_window"]
    return [window if kind == "sliding_attention" else None for kind in config["layer_types"]]


def qwen_layers(config: dict[str, Any]) -> dict[str, Any]:
    """`layer_types`, where a config only says from which layer on the window is used."""
    config = dict(config)
    used = config.pop("use_sliding_window", False)
    first = config.pop("max_window_layers", 28)
    config["sliding_window"] = config.get("sliding_window", 4096) if used else None
    kinds = [
        "sliding_attention" if used and n >= first else "full_attention"
        for n in range(config["num_hidden_layers"])
    ]
    return {**config, "layer_types": config.get("layer_types") or kinds}


def qwen_windows(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "use_sliding_window": config["sliding_window"] is not None}


def gemma2_layers(config: dict[str, Any]) -> dict[str, Any]:
    kinds = ["full_attention" if n % 2 else "sliding_attention" for n in range(config["num_hidden_layers"])]
    types = config.get("layer_types") or kinds
    return {**config, "layer_types": types, "sliding_window": config.get("sliding_window", 4096)}


def read_gemma_activation(name: str) -> dict[str, Any]:
    """Gemma's first configs say gelu and mean the approximation by tanh."""
    return read_activation("gelu_pytorch_tanh" if name == "gelu" else name)


def write_gemma_activation(activation: dict[str, Any]) -> str:
    return {"gelu_new": "gelu_pytorch_tanh"}.get(name := write_activation(activation), name)


def one_activation(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma's configs may name the activation twice; the second name counts."""
    config = dict(config)
    second = config.pop("hidden_activation", None)
    return {**config, "hidden_act": second or config.get("hidden_act", "gelu_pytorch_tanh")}


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    always=ALWAYS,
    options=[
        *SHAPE,
        *(HEAD_WIDTH, WIDTH, ACTIVATION, EPS, ATTENTION_BIAS, UNTIED),
        Option("ffn.bias", "mlp_bias", False, *flag("gate", "up", "down")),
    ],
    rows=[*ENDS, *PRE, *ATTENTION, *FEED_FORWARD],
    prefix="model.",
    harmless=("pretraining_tp",),
)
MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    options=[
        *SHAPE,
        *(HEAD_WIDTH, WIDTH, ACTIVATION, EPS, UNTIED),
        Option("attention.window", "sliding_window", 4096),
    ],
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
        *SHAPE,
        *(HEAD_WIDTH, UNTIED, EPS._replace(default=1e-5)),
        Option("ffn.expert.width", "intermediate_size"),
        ACTIVATION._replace(ours="ffn.expert.activation"),
        Option("ffn.experts", "num_local_experts", 8),
        Option("ffn.k", "num_experts_per_tok", 2),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION),
        Row((f"{LAYER}.ffn.router.weight",), f"{THEIRS}.block_sparse_moe.gate.weight", SAME),
        *linear(f"{LAYER}.ffn.experts.{{e}}.gate", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w1"),
        *linear(f"{LAYER}.ffn.experts.{{e}}.up", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w3"),
        *linear(f"{LAYER}.ffn.experts.{{e}}.down", f"{THEIRS}.block_sparse_moe.experts.{{e}}.w2"),
    ],
    harmless=("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    theta=1e6,
)
QWEN2 = replace(
    LLAMA,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    always={**ALWAYS, "attention": {"name": "softmax", "bias": ["q", "k", "v"]}},
    options=[*SHAPE, WIDTH, ACTIVATION, EPS, UNTIED],
    unpack=qwen_layers,
    pack=qwen_windows,
    windows=layered_windows,
    harmless=(),
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
        *SHAPE,
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
        *SHAPE,
        *(HEAD_WIDTH._replace(default=256), WIDTH, EPS, ATTENTION_BIAS, TIED),
        Option("ffn.activation", "hidden_act", "gelu", read_gemma_activation, write_gemma_activation),
    ],
    unpack=one_activation,
    must={"use_bidirectional_attention": (None, False)},
    harmless=(),
)
GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    always={**GEMMA.always, "placement": "sandwich"},
    options=[
        *SHAPE,
        *(HEAD_WIDTH._replace(default=256), WIDTH, EPS, ATTENTION_BIAS, TIED),
        ACTIVATION._replace(theirs="hidden_activation", default="gelu_pytorch_tanh"),
        Option("attention.softcap", "attn_logit_softcapping", 50.0),
        Option("head.softcap", "final_logit_softcapping", 30.0),
        Option(
            "attention.scale",
            "query_pre_attn_scalar",
            256,
            read=lambda width: width**-0.5,
            write=lambda scale: round(scale**-2),
        ),
    ],
    rows=[
        *ENDS,
        *norms(
            attention_inside="input_layernorm",
            attention_branch="post_attention_layernorm",
            ffn_inside="pre_feedforward_layernorm",
            ffn_branch="post_feedforward_layernorm",
        ),
        *(*ATTENTION, *FEED_FORWARD),
    ],
    unpack=gemma2_layers,
    windows=layered_windows,
    harmless=("hidden_act", "cache_implementation"),
)
OLMO = replace(
    LLAMA,
    name="olmo",
    architecture="OlmoForCausalLM",
    always={**ALWAYS, "norm": {"name": "layernorm", "weight": False, "bias": False, "eps": 1e-5}},
    options=[*SHAPE, WIDTH, ACTIVATION, ATTENTION_BIAS, UNTIED],
    must={"clip_qkv": (None,)},
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
        *SHAPE,
        *(WIDTH, ACTIVATION, EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
        *(ATTENTION_BIAS, UNTIED),
    ],
    rows=[
        *ENDS,
        *norms(attention_branch="post_attention_layernorm", ffn_branch="post_feedforward_layernorm"),
        *(*ATTENTION, *QK_NORMS, *FEED_FORWARD),
    ],
)
