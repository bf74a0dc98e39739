"""Mixtures with an option that no other family has: Kolibri-1, A.X K1, MiMo-V2-Flash, Phi-3.5-MoE, Beam."""

from typing import Any

from ablate.model.hf.family import SAME, CheckpointFormatError, Family, Option, Row, shown
from ablate.model.hf.latent import (
    DEEPSEEK_V3,
    IMPLIED,
    MLA,
    MLA_COMMON,
    TURNED,
    interleaving,
    query_row,
    spelled_out,
)
from ablate.model.hf.latent import latent as latent_sizes
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION_BIAS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    MIXTRAL,
    PRE,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    UNTIED,
    norms,
)
from ablate.model.hf.llama_kin import (
    HEAD_NORMS,
    LAYERNORM_ENDS,
    LAYERNORM_PRE,
    LLAMA_SIZES,
    NOPE_GLOBAL,
    QKV_PARTS,
    WINDOW,
    kin,
)
from ablate.model.hf.llama_layers import LOCAL_ROPES, TWO_ROPES, exaone_types
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    LATER,
    LLAMA_ROWS,
    SPARSE,
    dense_and_sparse,
    moe,
    one_count,
    renormalised,
    routed_options,
)
from ablate.model.hf.multiplied import BASES, GLOBAL_WORD, LOCAL_WORD, placed_axis, placed_variants
from ablate.model.hf.rotation import gather
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK, DEEPSEEK_ROWS, GROUP_OPTIONS, SIGMOID, without
from ablate.model.hf.tables import (
    ROPE,
    activation_option,
    depth_of,
    every,
    expert_rows,
    listed_axis,
    ropes_by_type,
    size_options,
    sparse_or_dense,
    whole_number,
    windowed,
)
from ablate.model.hf.words import flag

# ------------------------------------------------------------------------------------- Kolibri-1

FFN = f"{LAYER}.ffn"
KOLIBRI1 = kin(
    "kolibri1",
    "Kolibri1ForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "attention": HEAD_NORMS,
        "ffn": {"name": "moe", "expert": GATED_MLP, "selection": "logit"}
        | {"shared": 1, "shared_expert": GATED_MLP},
        "variants": NOPE_GLOBAL,
    },
    options=[
        *(*LLAMA_SIZES, ROPE._replace(ours="variants.local.position"), HEAD_WIDTH, EPS, QK_NORM, UNTIED),
        WINDOW._replace(default=513),
        *routed_options("ffn", "num_experts"),
        renormalised("ffn", False, "sigmoid_all", "sigmoid"),
        Option("ffn.shared_expert.width", "shared_expert_intermediate_size"),
        activation_option("ffn.shared_expert"),
    ],
    rows=[
        *(row for row in LLAMA_ROWS if row not in PRE),
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_attn_norm",
            ffn_input_norm="post_attention_layernorm",
            ffn_output_norm="post_ffn_norm",
        ),
        *(*QK_NORMS, *expert_rows(shared="mlp.shared_experts", bias="moe.router.expert_bias")),
    ],
    axes=(windowed(every(5)),),
    unpack=lambda config: exaone_types(one_count({"sliding_window": 513, **config})),
    pack=lambda config: some_window({**config, "num_local_experts": config["num_experts"]}),
    harmless=JITTER,
)


def some_window(config: dict[str, Any]) -> dict[str, Any]:
    """A window must be said even where no layer has one."""
    return {**config, "sliding_window": config.get("sliding_window") or config["max_position_embeddings"]}


# --------------------------------------------------------------------------------------- A.X K1


def sparse_after(n: int, config: dict[str, Any]) -> str:
    """The kind of a layer by the older keys."""
    first, step = whole_number(config, "first_k_dense_replace", 1), whole_number(config, "moe_layer_freq", 1)
    return "sparse" if n >= first and n % max(1, step) == 0 else "dense"


SPARSE_WORDS = {"dense": "dense", "sparse": "sparse"}
AXK1 = kin(
    "axk1",
    "AXK1ForCausalLM",
    DEEPSEEK_V3,
    always={
        **ALWAYS,
        "position": TURNED,
        "attention": MLA,
        "variants": dense_and_sparse(moe("sigmoid", output_norm={"name": "rmsnorm"})),
    },
    options=[
        *interleaving([*MLA_COMMON, UNTIED, *(o for o in DEEPSEEK_V3.options if o.ours == "position")]),
        *BY_DEEPSEEK,
        Option(f"{SPARSE}.output_norm.eps", "rms_norm_eps", 1e-6),
    ],
    rows=[
        *(row for row in DEEPSEEK_V3.rows if row != query_row("q_proj")),
        Row((f"{FFN}.output_norm.weight",), f"{THEIRS}.post_mlp_layernorm.weight", SAME),
    ],
    axes=(listed_axis("mlp_layer_types", SPARSE_WORDS, sparse_or_dense, sparse_after),),
    unpack=lambda config: latent_sizes({"num_key_value_heads": 64, **config}),
    pack=spelled_out,
    harmless=(*JITTER, *LATER, *IMPLIED, "first_k_dense_replace", "moe_layer_freq"),
)

# -------------------------------------------------------------------------------- MiMo-V2-Flash

MIMO_ROPES = ropes_by_type({GLOBAL_WORD: 5e6, LOCAL_WORD: 10_000.0}, 0.334)


def whole_where_scaled(config: dict[str, Any]) -> dict[str, Any]:
    """transformers turns 0.334 of a head where nothing is said, and with any scaling the whole head."""
    both = config.get("rope_parameters")
    if not isinstance(both, dict):
        return config
    said = {
        kind: {"partial_rotary_factor": 1.0, **rope}
        if isinstance(rope, dict) and rope.get("rope_type", "default") != "default"
        else rope
        for kind, rope in both.items()
    }
    return {**config, "rope_parameters": said}


def doubled_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window have twice the key-value heads; null is 1 for multipliers."""
    config = MIMO_ROPES[0](whole_where_scaled(config))
    heads = whole_number(config, "num_key_value_heads", 4)
    for key in ("routed_scaling_factor", "attention_value_scale"):
        if key in config and config[key] is None:
            config[key] = 1.0
    window = config.pop("sliding_window_size", None)
    if window is not None:
        config["sliding_window"] = whole_number({"sliding_window_size": window}, "sliding_window_size", 0) + 1
    return {**config, "num_key_value_heads": heads, "local_heads": 2 * heads}


def halved_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the key-value heads of layers that see all, which are half of the others'."""
    config = some_window(config)
    heads = config.pop("local_heads", None)
    return {"num_key_value_heads": (heads or 2) // 2, **MIMO_ROPES[1](config)}


def first_and_each_sixth(n: int, config: dict[str, Any]) -> str:
    """Which layers of MiMo-V2-Flash see all, where a config does not say."""
    return GLOBAL_WORD if n == 0 or (n + 1) % 6 == 0 else LOCAL_WORD


MIMO_V2_FLASH = kin(
    "mimo_v2_flash",
    "MiMoV2FlashForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "variants": {
            "local": {**TWO_ROPES["local"], "attention": {"name": "softmax", "sink_logit": True}},
            "global": {**TWO_ROPES["global"], "attention": {"name": "softmax"}},
            **dense_and_sparse(moe("sigmoid")),
        },
    },
    options=[
        *(
            *size_options(),
            *LOCAL_ROPES,
            HEAD_WIDTH._replace(default=192),
            EPS._replace(default=1e-5),
            UNTIED,
        ),
        Option("variants.global.attention.kv_heads", "num_key_value_heads", 4),
        Option("variants.local.attention.kv_heads", "local_heads", 8),
        WINDOW._replace(default=129),
        Option("attention.bias", "attention_bias", False, *flag(*QKV_PARTS)),
        Option("attention.value_width", "v_head_dim", 128),
        Option("attention.value_multiplier", "attention_value_scale", 0.707),
        *without(BY_DEEPSEEK, "n_shared_experts"),
    ],
    rows=[
        *(*LLAMA_ROWS, *FEED_FORWARD, *expert_rows(bias="mlp.gate.e_score_correction_bias")),
        Row((f"{LAYER}.attention.sink",), f"{THEIRS}.self_attn.attention_sink_bias", SAME),
    ],
    axes=(
        windowed(first_and_each_sixth),
        listed_axis(
            "mlp_layer_types", SPARSE_WORDS, sparse_or_dense, lambda n, config: "sparse" if n else "dense"
        ),
    ),
    unpack=doubled_heads,
    pack=halved_heads,
    harmless=(*JITTER, *LATER),
)

# ---------------------------------------------------------------------------------- Phi-3.5-MoE


def one_magnitude(config: dict[str, Any]) -> dict[str, Any]:
    """LongRoPE with one magnitude for short and long texts, and with the short factors, which transformers
    takes at every length of this family. Raises CheckpointFormatError."""
    config = gather(config, 1e6, 1.0)
    rope = dict(config["rope_parameters"])
    if rope["rope_type"] == "longrope":
        short, long = rope.pop("short_mscale", None), rope.pop("long_mscale", None)
        if short is None or short != long:
            raise CheckpointFormatError(
                f"short_mscale is {shown(short)} and long_mscale {shown(long)}; one for both can be expressed"
            )
        rope |= {"attention_factor": short, "long_factor": rope.get("short_factor")}
    elif rope["rope_type"] != "default":
        raise CheckpointFormatError(f"rope_type is {shown(rope['rope_type'])}; there are default, longrope")
    return {**config, "rope_parameters": rope}


def two_magnitudes(config: dict[str, Any]) -> dict[str, Any]:
    """Back."""
    ropes = {key: config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key)}
    for key, rope in ropes.items():
        if rope["rope_type"] == "longrope":
            both = dict.fromkeys(("short_mscale", "long_mscale"), rope["attention_factor"])
            rest = {name: value for name, value in rope.items() if name != "attention_factor"}
            config = {**config, key: {**rest, **both}}
    return config


PHIMOE = kin(
    "phimoe",
    "PhimoeForCausalLM",
    MIXTRAL,
    always={**ALWAYS, "norm": {"name": "layernorm"}, "ffn": moe("sparsemixer", shared=0)},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, UNTIED, ATTENTION_BIAS, EPS._replace(default=1e-5)),
        *routed_options("ffn", "num_local_experts", width="intermediate_size"),
        Option("ffn.jitter", "router_jitter_noise", 0.01),
        Option("head.bias", "lm_head_bias", False),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[*LAYERNORM_ENDS, Row(("head.bias",), "lm_head.bias", SAME), *LAYERNORM_PRE]
    + [row for row in MIXTRAL.rows if "self_attn" in row.theirs or "moe" in row.theirs],
    unpack=one_magnitude,
    pack=two_magnitudes,
    must={"num_experts_per_tok": (2,)},
    harmless=(*JITTER, "input_jitter_noise"),
    grain=1,
    theta=1e6,
)

# ------------------------------------------------------------------------------------------ Beam

BEAM_THETA = 10_000.0


def places_by_type(config: dict[str, Any]) -> dict[str, Any]:
    """Kinds of layers that have no RoPE, whose object is null, have a temperature instead."""
    config, depth = dict(config), depth_of(config)
    both = config.pop("rope_parameters", None) or {LOCAL_WORD: {"rope_theta": BEAM_THETA}, GLOBAL_WORD: None}
    if not isinstance(both, dict) or set(both) - {LOCAL_WORD, GLOBAL_WORD}:
        raise CheckpointFormatError(
            f"rope_parameters is {shown(both)}, and should hold an object or null for each kind of layer"
        )
    if config.get("layer_types") is None:
        config["layer_types"] = [*(every(6)(n, config) for n in range(depth - 1)), GLOBAL_WORD]
    kinds = config["layer_types"]
    if not isinstance(kinds, list) or any(kind not in both for kind in kinds):
        raise CheckpointFormatError(f"layer_types is {shown(kinds)}; rope_parameters has {', '.join(both)}")
    config[BASES] = ["plain" if both[kind] is None else "turned" for kind in kinds]
    for kind in (LOCAL_WORD, GLOBAL_WORD):
        context = config.get("max_position_embeddings")
        said = {"rope_parameters": both.get(kind), "max_position_embeddings": context}
        config[f"rope_parameters.{kind}"] = gather(said, BEAM_THETA, 1.0)["rope_parameters"]
    return config


def types_of_places(config: dict[str, Any]) -> dict[str, Any]:
    """Back. Layers of one kind must be alike, which reading it back shows."""
    config = some_window(config)
    words = dict(zip(config["layer_types"], config.pop(BASES), strict=True))
    ropes = {kind: config.pop(f"rope_parameters.{kind}", None) for kind in (LOCAL_WORD, GLOBAL_WORD)}
    turned = {kind: rope if words.get(kind) == "turned" else None for kind, rope in ropes.items()}
    return {**config, "rope_parameters": turned}


BEAM_HEADS = {**HEAD_NORMS, "gate": "channel", "gate_bias": True}
TEMPERED = {**BEAM_HEADS, "temperature": 0.1, "temperature_floor": 2048, "temperature_form": "power"}
BEAM = kin(
    "beam",
    "BeamForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "stream": {"name": "depth_scaled"},
        "variants": {
            **placed_variants(turned={"attention": BEAM_HEADS}, plain={"attention": TEMPERED}),
            **dense_and_sparse(moe("sigmoid")),
        },
    },
    options=[
        *(
            *LLAMA_SIZES,
            HEAD_WIDTH._replace(default=128),
            EPS,
            UNTIED,
            ATTENTION_BIAS,
            *DENSE,
            *GROUP_OPTIONS,
        ),
        *routed_options(SPARSE, "num_experts", scale="routed_scaling_factor"),
        SIGMOID,
        *(
            Option(f"variants.local_{word}.attention.window", "sliding_window", 512)
            for word in ("turned", "plain")
        ),
        *(
            Option(f"variants.{ours}_turned.position", f"rope_parameters.{kind}", {}, ROPE.read, ROPE.write)
            for ours, kind in (("local", LOCAL_WORD), ("global", GLOBAL_WORD))
        ),
        *(
            Option(f"variants.{place}_{word}.attention.qk_norm.eps", "rms_norm_eps", 1e-6)
            for place in ("local", "global")
            for word in ("turned", "plain")
        ),
        Option("head.softcap", "final_logit_softcapping", 30.0),
    ],
    rows=[
        *(row for row in LLAMA_ROWS if row not in PRE),
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_attention_layernorm",
            ffn_input_norm="pre_feedforward_layernorm",
            ffn_output_norm="post_feedforward_layernorm",
        ),
        *(*QK_NORMS, *(row for row in DEEPSEEK_ROWS if "shared" not in row.theirs)),
        Row((f"{LAYER}.attention.gate.weight",), f"{THEIRS}.self_attn.gate_proj.weight", SAME),
        Row((f"{LAYER}.attention.gate_bias",), f"{THEIRS}.self_attn.gate_bias", SAME),
    ],
    axes=(
        placed_axis(),
        listed_axis(
            "mlp_layer_types", SPARSE_WORDS, sparse_or_dense, lambda n, config: "sparse" if n > 2 else "dense"
        ),
    ),
    unpack=places_by_type,
    pack=types_of_places,
    harmless=JITTER,
)
OWN_MIXTURES_FAMILIES: tuple[Family, ...] = (KOLIBRI1, AXK1, MIMO_V2_FLASH, PHIMOE, BEAM)
