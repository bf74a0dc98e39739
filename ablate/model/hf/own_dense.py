"""Dense families with a part that no other has: ModernBERT's decoder and Doge."""

from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import (
    ACTIVATION,
    ALWAYS,
    ATTENTION_BIAS,
    EPS,
    HEAD_WIDTH,
    LAYER,
    LLAMA,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
    WIDTH,
    whole,
)
from ablate.model.hf.llama_kin import GATE_UP, GLU_BIAS, LLAMA_SIZES, WINDOW, kin
from ablate.model.hf.llama_layers import LOCAL_ROPES, TWO_ROPES
from ablate.model.hf.tables import ROPE, activation_option, depth_of, ropes_by_type, size_options, windowed
from ablate.model.hf.words import flag

# ---------------------------------------------------------------------------- ModernBERT's decoder

THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
OLD_THETAS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
MODERN_ROPES = ropes_by_type(THETAS)


def halved_window(config: dict[str, Any]) -> dict[str, Any]:
    """A token sees half of `local_attention`; bases of RoPE may stand outside of its parameters, and which
    layers see all may be a number. Raises CheckpointFormatError."""
    config, depth = dict(config), depth_of(config)
    both_sides = config.pop("local_attention", 128 if "sliding_window" not in config else None)
    said = None if both_sides is None else whole({"local_attention": both_sides}, "local_attention") // 2
    window = config["window"] = whole(config, "sliding_window", said)
    config.pop("sliding_window", None)
    if said not in (None, window):
        raise CheckpointFormatError(
            f"local_attention is {both_sides}, but transformers reads sliding_window, {window}; take one out"
        )
    both = config.get("rope_parameters") or {}
    if not isinstance(both, dict):
        raise CheckpointFormatError(f"rope_parameters is {shown(both)}, and should hold an object a kind")
    bases = {kind: config.pop(old, None) for kind, old in OLD_THETAS.items()}
    config["rope_parameters"] = {**both} | {
        kind: {"rope_theta": base, **(both.get(kind) or {})}
        for kind, base in bases.items()
        if base is not None
    }
    step = config.pop("global_attn_every_n_layers", 3)
    if config.get("layer_types") is None:
        step = max(1, whole({"global_attn_every_n_layers": step}, "global_attn_every_n_layers"))
        config["layer_types"] = ["sliding_attention" if n % step else "full_attention" for n in range(depth)]
    return MODERN_ROPES[0](config)


def doubled_window(config: dict[str, Any]) -> dict[str, Any]:
    """Back. transformers wants numbers for special tokens, whether a model has them or not."""
    config = MODERN_ROPES[1](config)
    window = config.pop("window", None)
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    window = window or config["max_position_embeddings"]
    return {**config, **tokens, "local_attention": 2 * window, "sliding_window": window}


BARE_FIRST = Axis(
    (),
    lambda config: ["first", *["later"] * (depth_of(config) - 1)],
    lambda kinds: {},
    lambda layer: "first" if layer["placement"]["name"] == "pre_ffn" else "later",
)
MODERN_LAYER = "model.layers.{n}"
MODERN_NORMS = {
    "embedding_norm.0": "model.embeddings.norm",
    "final_norm": "model.final_norm",
    "head.transform.norm": "lm_head.norm",
    f"{LAYER}.attention_residual.input_norm": f"{MODERN_LAYER}.attn_norm",
    f"{LAYER}.ffn_residual.input_norm": f"{MODERN_LAYER}.mlp_norm",
}
MODERNBERT_DECODER = Family(
    name="modernbert-decoder",
    architecture="ModernBertDecoderForCausalLM",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "topology": "serial",
        "position": {"name": "rope", "rotary_fraction": 1.0},
        "attention": {"name": "softmax"},
        "ffn": {"name": "glu"},
        "embedding": {"norm": {"name": "layernorm"}},
        "head": {"transform": {"norm": {"name": "layernorm"}}},
        "variants": {**TWO_ROPES, "first": {"placement": "pre_ffn"}, "later": {}},
    },
    options=[
        *(*size_options(), *LOCAL_ROPES, WIDTH, TIED, ATTENTION_BIAS, GLU_BIAS),
        activation_option(theirs="hidden_activation", default="gelu"),
        activation_option("head.transform", "classifier_activation", "gelu"),
        *(
            Option(f"{at}.{ours}", theirs, default)
            for at in ("norm", "embedding.norm", "head.transform.norm")
            for ours, theirs, default in (("eps", "norm_eps", 1e-5), ("bias", "norm_bias", False))
        ),
        Option("head.transform.bias", "classifier_bias", False),
        Option("head.bias", "decoder_bias", True),
        WINDOW._replace(theirs="window", default=64),
    ],
    rows=[
        Row(("embedding.weight",), "model.embeddings.tok_embeddings.weight", SAME),
        *linear_rows("head", "decoder"),
        *(row for ours, theirs in MODERN_NORMS.items() for row in linear_rows(ours, theirs)),
        *linear_rows("head.transform.dense", "lm_head.dense"),
        *(
            row
            for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "Wo"))
            for row in linear_rows(f"{LAYER}.attention.{ours}", f"{MODERN_LAYER}.attn.{theirs}")
        ),
        *linear_rows(GATE_UP, f"{MODERN_LAYER}.mlp.Wi", STACKED),
        *linear_rows(f"{LAYER}.ffn.down", f"{MODERN_LAYER}.mlp.Wo"),
    ],
    axes=(windowed(), BARE_FIRST),
    unpack=halved_window,
    pack=doubled_window,
    harmless=(
        *("initializer_cutoff_factor", "embedding_dropout", "mlp_dropout", "classifier_dropout"),
        *("cls_token_id", "num_key_value_heads"),
    ),
    whole_heads=True,
)

# ------------------------------------------------------------------------------------------ Doge

KEPT_KEYS = "keep_window_size"


def all_keys_kept(config: dict[str, Any]) -> dict[str, Any]:
    """Raises CheckpointFormatError where keys would be hidden by their weight."""
    config = dict(config)
    kept, context = whole(config, KEPT_KEYS, 2048), whole(config, "max_position_embeddings", 2048)
    config.pop(KEPT_KEYS, None)
    if kept < context:
        raise CheckpointFormatError(
            f"{KEPT_KEYS} is {kept}: beyond it keys are hidden by their weight, which no option means; "
            f"lower max_position_embeddings, {context}"
        )
    return config


DOGE = kin(
    "doge",
    "DogeForCausalLM",
    always={
        **ALWAYS,
        "stream": {"name": "weighted"},
        "attention": {"name": "dynamic_mask", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "head"},
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, EPS, QK_NORM, UNTIED, GLU_BIAS),
        Option("attention.bias", "attention_bias", False, *flag("q", "k", "v", "out")),
        Option("attention.weight_bias", "attention_bias", False),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[
        *(*LLAMA.rows, *QK_NORMS),
        Row((f"{LAYER}.attention.rate",), f"{THEIRS}.self_attn.A", SAME),
        *linear_rows(f"{LAYER}.attention.weight", f"{THEIRS}.self_attn.dt_proj"),
        Row((f"{LAYER}.attention_residual.connection.weight",), f"{THEIRS}.input_residual", SAME),
        Row((f"{LAYER}.ffn_residual.connection.weight",), f"{THEIRS}.post_attention_residual", SAME),
    ],
    unpack=all_keys_kept,
    pack=lambda config: {**config, KEPT_KEYS: max(2048, config["max_position_embeddings"])},
    must={"is_moe": (False,)},
    harmless=(
        *("hidden_dropout", "num_experts", "num_experts_per_tok", "norm_topk_prob"),
        *("output_router_logits", "router_aux_loss_coef"),
    ),
)
OWN_DENSE_FAMILIES: tuple[Family, ...] = (MODERNBERT_DECODER, DOGE)
