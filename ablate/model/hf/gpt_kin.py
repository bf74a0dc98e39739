"""Families before LLaMA: layer norms, biases, positions of their own, and names of GPT-2's kind."""

from typing import Any

import torch

from ablate.model.hf.family import (
    BY_HEAD,
    SAME,
    STACKED,
    STACKED_TRANSPOSED,
    TRANSPOSED,
    Axis,
    Change,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear,
    shown,
)
from ablate.model.hf.tables import INTERLEAVED, LAYER, ROPE, activation, local_or_global, sizes
from ablate.model.hf.words import read_activation, write_activation

QKV = tuple(f"{LAYER}.attention.{name}" for name in ("q", "k", "v"))
GPT_SIZES = sizes(width="n_embd", depth="n_layer", heads="n_head", context="n_positions", vocab="vocab_size")
EPS = Option("norm.eps", "layer_norm_epsilon", 1e-5)
TIED = Option("head.tied", "tie_word_embeddings", True)
UNTIED = Option("head.tied", "tie_word_embeddings", False)
INNER = Option("ffn.width", "n_inner", None)
NEW_GELU = activation(theirs="activation_function", default="gelu_new")
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "summary_type", "summary_use_proj")
SUMMARY = ("summary_activation", "summary_proj_to_labels", "summary_first_dropout")
MLP: dict[str, Any] = {"name": "mlp", "bias": ["up", "down"]}
ALL = ["q", "k", "v", "out"]
CORE: dict[str, Any] = {
    "norm": {"name": "layernorm"},
    "placement": "pre",
    "topology": "serial",
    "position": {"name": "learned"},
    "attention": {"name": "softmax", "bias": ALL},
    "ffn": MLP,
}
BEYOND = Change(  # a table of positions whose first two rows stand for nothing
    lambda x, like, shape: [x[2:]],
    lambda ours, shape: torch.cat((torch.zeros_like(ours[0][:2]), ours[0])),
)


def placed(layer: str, **slots: str) -> list[Row]:
    """Ours to theirs, weight and bias: `attention__q="attn.q_proj"`."""
    rows: list[Row] = []
    for ours, theirs in slots.items():
        rows += linear(f"{LAYER}.{ours.replace('__', '.')}", f"{layer}.{theirs}")
    return rows


def ends(embedding: str, norm: str, head: str = "lm_head", positions: str | None = None) -> list[Row]:
    """The rows outside of the layers."""
    rows = [
        Row(("embedding.weight",), f"{embedding}.weight", SAME),
        *linear("final_norm", norm),
        *linear("head", head),
    ]
    if positions is not None:
        rows.append(Row(("positions.0.table.weight",), f"{positions}.weight", SAME))
    return rows


# ----------------------------------------------------------------------------- GPT-J and CodeGen


def turned_channels(config: dict[str, Any]) -> dict[str, Any]:
    """`rotary_dim` as a fraction of a head. Raises CheckpointFormatError."""
    config = dict(config)
    turned, width, heads = config.pop("rotary_dim", 64), config.get("n_embd"), config.get("n_head")
    for value in (turned, width, heads):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointFormatError(
                f"rotary_dim, n_embd or n_head is {shown(value)}, and should be a number"
            )
    fraction = turned / (width // heads)  # type: ignore[operator]
    return {**config, "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": fraction}}


def turned_number(config: dict[str, Any]) -> dict[str, Any]:
    """The number of channels that turn; no other option of the position has a key."""
    fraction = config["rope_parameters"].get("partial_rotary_factor", 1.0)
    gone = ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor")
    rest = {key: value for key, value in config.items() if key not in gone}
    return {**rest, "rotary_dim": int(config["n_embd"] // config["n_head"] * fraction)}


GPTJ_LAYER = "transformer.h.{n}"
GPTJ_FFN = placed(GPTJ_LAYER, ffn__up="mlp.fc_in", ffn__down="mlp.fc_out")
GPTJ = Family(
    name="gptj",
    architecture="GPTJForCausalLM",
    always={
        **CORE,
        "topology": "parallel",
        "position": {"name": "rope", "interleaved": True},
        "attention": {"name": "softmax", "bias": []},
        "head": {"bias": True},
    },
    options=[*GPT_SIZES, EPS, UNTIED, INNER, NEW_GELU, INTERLEAVED],
    rows=[
        *ends("transformer.wte", "transformer.ln_f"),
        *placed(
            GPTJ_LAYER,
            attention_residual__input_norm="ln_1",
            attention__q="attn.q_proj",
            attention__k="attn.k_proj",
            attention__v="attn.v_proj",
            attention__out="attn.out_proj",
        ),
        *GPTJ_FFN,
    ],
    prefix="transformer.",
    harmless=(*DROPOUTS, *SUMMARY),
    unpack=turned_channels,
    pack=turned_number,
    whole_heads=True,
)
IN_FOUR = Change(  # in four parts, each with its queries, then values, then keys
    lambda x, like, shape: [x.unflatten(0, (4, 3, -1))[:, which].flatten(0, 1) for which in (0, 2, 1)],
    lambda ours, shape: torch.stack([ours[which].unflatten(0, (4, -1)) for which in (0, 2, 1)], 1).flatten(
        0, 2
    ),
)
CODEGEN = Family(
    name="codegen",
    architecture="CodeGenForCausalLM",
    always=GPTJ.always,
    options=GPTJ.options,
    rows=[
        *ends("transformer.wte", "transformer.ln_f"),
        *placed(GPTJ_LAYER, attention_residual__input_norm="ln_1", attention__out="attn.out_proj"),
        Row(tuple(f"{name}.weight" for name in QKV), f"{GPTJ_LAYER}.attn.qkv_proj.weight", IN_FOUR),
        *GPTJ_FFN,
    ],
    prefix="transformer.",
    harmless=(*DROPOUTS, *SUMMARY, "n_ctx"),
    unpack=turned_channels,
    pack=turned_number,
    whole_heads=True,
)

# ------------------------------------------------------------------------------------ GPT-2's kin

CONV1D = [
    *linear(QKV, "transformer.h.{n}.attn.c_attn", STACKED_TRANSPOSED),
    *linear(f"{LAYER}.attention.out", "transformer.h.{n}.attn.c_proj", TRANSPOSED),
    *linear(f"{LAYER}.ffn.up", "transformer.h.{n}.mlp.c_fc", TRANSPOSED),
    *linear(f"{LAYER}.ffn.down", "transformer.h.{n}.mlp.c_proj", TRANSPOSED),
]
UNTURNED = [  # vectors are not transposed
    row._replace(change=STACKED if row.change is STACKED_TRANSPOSED else SAME)
    if row.theirs.endswith("bias")
    else row
    for row in CONV1D
]


def read_afn(name: str) -> dict[str, Any]:
    """What this family calls gelu is the approximation by tanh."""
    if name not in ("gelu", "relu", "silu", "swish"):
        raise CheckpointFormatError(f"afn is {shown(name)}; there are gelu, relu, silu and swish")
    return read_activation("gelu_new" if name == "gelu" else name)


def write_afn(ours: dict[str, Any]) -> str:
    return {"gelu_new": "gelu", "gelu": "exact gelu"}.get(name := write_activation(ours), name)


OPENAI_GPT = Family(
    name="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    always={**CORE, "placement": "post"},
    options=[*GPT_SIZES, EPS, TIED, Option("ffn.activation", "afn", "gelu", read_afn, write_afn)],
    rows=[
        *ends("transformer.tokens_embed", "transformer.nothing", positions="transformer.positions_embed"),
        *UNTURNED,
        *placed(
            "transformer.h.{n}", attention_residual__residual_norm="ln_1", ffn_residual__residual_norm="ln_2"
        ),
    ],
    prefix="transformer.",
    harmless=(*DROPOUTS, *SUMMARY),
    whole_heads=True,
)
BLOCK_NORMS = placed(
    "transformer.h.{n}", attention_residual__input_norm="ln_1", ffn_residual__input_norm="ln_2"
)
GPT_BIGCODE = Family(
    name="gpt_bigcode",
    architecture="GPTBigCodeForCausalLM",
    always={**CORE, "attention": {"name": "softmax", "bias": ALL, "kv_heads": 1}},
    options=[*GPT_SIZES, EPS, TIED, INNER, NEW_GELU._replace(default="gelu_pytorch_tanh")],
    rows=[
        *ends("transformer.wte", "transformer.ln_f", positions="transformer.wpe"),
        *BLOCK_NORMS,
        *linear(QKV, "transformer.h.{n}.attn.c_attn", STACKED),
        *placed(
            "transformer.h.{n}", attention__out="attn.c_proj", ffn__up="mlp.c_fc", ffn__down="mlp.c_proj"
        ),
    ],
    prefix="transformer.",
    must={"multi_query": (True,), "scale_attn_weights": (True,), "num_key_value_heads": (1, None)},
    harmless=(
        *(*DROPOUTS, *SUMMARY, "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
        *("inference_runner", "validate_runner_input", "pre_allocate_kv_cache", "max_sequence_length"),
        *("max_batch_size", "pad_key_length"),
    ),
    whole_heads=True,
)


def neo_layers(config: dict[str, Any]) -> list[str]:
    """`attention_types`, a list of [kinds, repetitions]. Raises CheckpointFormatError."""
    said, found = config.get("attention_types"), []
    try:
        for kinds, count in said:  # type: ignore[union-attr]
            found += list(kinds) * min(int(count), 100_000)
    except (TypeError, ValueError):
        found = [""]
    if len(found) != config.get("num_layers") or set(found) - {"local", "global"}:
        raise CheckpointFormatError(
            f"attention_types is {shown(said)}, and should say global or local for each layer"
        )
    return found


GPT_NEO = Family(
    name="gpt_neo",
    architecture="GPTNeoForCausalLM",
    always={
        **CORE,
        "attention": {"name": "softmax", "bias": ["out"], "scale": 1.0},
        "variants": {"local": {}, "global": {}},
    },
    options=[
        *sizes(depth="num_layers", heads="num_heads"),
        *(EPS, TIED, NEW_GELU, Option("ffn.width", "intermediate_size", None)),
        Option("variants.local.attention.window", "window_size", 256),
    ],
    rows=[
        *ends("transformer.wte", "transformer.ln_f", positions="transformer.wpe"),
        *BLOCK_NORMS,
        *placed(
            "transformer.h.{n}",
            attention__q="attn.attention.q_proj",
            attention__k="attn.attention.k_proj",
            attention__v="attn.attention.v_proj",
            attention__out="attn.attention.out_proj",
            ffn__up="mlp.c_fc",
            ffn__down="mlp.c_proj",
        ),
    ],
    prefix="transformer.",
    axes=(
        Axis(
            ("attention_types",),
            neo_layers,
            lambda found: {"attention_types": [[found, 1]], "attention_layers": found},
            local_or_global,
        ),
    ),
    harmless=(
        *("attention_layers", "resid_dropout", "embed_dropout", "classifier_dropout", *SUMMARY),
        *("summary_type", "summary_use_proj"),
    ),
    whole_heads=True,
)

# ------------------------------------------------------------------------- fairseq's: BioGPT, OPT, XGLM


def fairseq_rows(layer: str) -> list[Row]:
    """The layers of models that came from fairseq."""
    return placed(
        layer,
        attention_residual__input_norm="self_attn_layer_norm",
        attention__q="self_attn.q_proj",
        attention__k="self_attn.k_proj",
        attention__v="self_attn.v_proj",
        attention__out="self_attn.out_proj",
        ffn_residual__input_norm="final_layer_norm",
        ffn__up="fc1",
        ffn__down="fc2",
    )


SCALED = Option(
    "embedding.scale",
    "scale_embedding",
    True,
    read=lambda on: "sqrt_width" if on else 1.0,
    write=lambda scale: scale != 1.0,
)
FAIRSEQ_DROPOUTS = (
    *("dropout", "layerdrop", "activation_dropout", "init_std", "hidden_dropout_prob"),
    "attention_probs_dropout_prob",
)
BIOGPT = Family(
    name="biogpt",
    architecture="BioGptForCausalLM",
    always={**CORE, "norm": {"name": "layernorm", "eps": 1e-5}},  # whatever its config says
    options=[
        *(*sizes(), TIED, SCALED, activation(default="gelu"), Option("ffn.width", "intermediate_size")),
    ],
    rows=[
        *ends("biogpt.embed_tokens", "biogpt.layer_norm", "output_projection"),
        Row(("positions.0.table.weight",), "biogpt.embed_positions.weight", BEYOND),
        *fairseq_rows("biogpt.layers.{n}"),
    ],
    prefix="biogpt.",
    harmless=(*FAIRSEQ_DROPOUTS, "layer_norm_eps"),
    whole_heads=True,
)


def opt_config(config: dict[str, Any]) -> dict[str, Any]:
    """Without a projection of the embedding, its width is the model's."""
    config = dict(config)
    narrow = config.pop("word_embed_proj_dim", None)
    if narrow is not None and narrow != config.get("hidden_size"):
        raise CheckpointFormatError(f"word_embed_proj_dim is {shown(narrow)}, not hidden_size")
    return config


OPT = Family(
    name="opt",
    architecture="OPTForCausalLM",
    always=CORE,
    options=[
        *(*sizes(), TIED, Option("ffn.width", "ffn_dim")),
        activation(theirs="activation_function", default="relu"),
    ],
    rows=[
        *ends("model.decoder.embed_tokens", "model.decoder.final_layer_norm"),
        Row(("positions.0.table.weight",), "model.decoder.embed_positions.weight", BEYOND),
        *fairseq_rows("model.decoder.layers.{n}"),
    ],
    prefix="model.",
    must={
        "do_layer_norm_before": (True,),
        "_remove_final_layer_norm": (False,),
        "enable_bias": (True,),
        "layer_norm_elementwise_affine": (True,),
    },
    harmless=FAIRSEQ_DROPOUTS,
    unpack=opt_config,
    pack=lambda config: {**config, "word_embed_proj_dim": config["hidden_size"]},
    whole_heads=True,
)
XGLM = Family(
    name="xglm",
    architecture="XGLMForCausalLM",
    always={
        **CORE,
        "position": {"name": "sinusoidal", "base": 1e4, "halves": True, "offset": 2, "inclusive": True},
    },
    options=[
        *sizes(width="d_model", depth="num_layers", heads="attention_heads"),
        *(TIED, SCALED, Option("ffn.width", "ffn_dim")),
        activation(theirs="activation_function", default="gelu"),
    ],
    rows=[*ends("model.embed_tokens", "model.layer_norm"), *fairseq_rows("model.layers.{n}")],
    prefix="model.",
    harmless=FAIRSEQ_DROPOUTS,
    whole_heads=True,
)

# -------------------------------------------------------------------------------- the others

CTRL_LAYER = "transformer.h.{n}"
CTRL = Family(
    name="ctrl",
    architecture="CTRLLMHeadModel",
    always={
        **CORE,
        "norm": {"name": "layernorm", "eps": 1e-6},  # whatever its config says
        "position": {"name": "sinusoidal", "base": 1e4, "halves": True, "offset": 0, "inclusive": False},
        "embedding": {"scale": "sqrt_width"},
        "ffn": {**MLP, "activation": {"name": "relu"}},
        "head": {"bias": True},
    },
    options=[*GPT_SIZES, TIED, Option("ffn.width", "dff")],
    rows=[
        Row(("embedding.weight",), "transformer.w.weight", SAME),
        *linear("final_norm", "transformer.layernorm"),
        *linear("head", "lm_head"),
        *placed(
            CTRL_LAYER,
            attention_residual__input_norm="layernorm1",
            ffn_residual__input_norm="layernorm2",
            attention__q="multi_head_attention.Wq",
            attention__k="multi_head_attention.Wk",
            attention__v="multi_head_attention.Wv",
            attention__out="multi_head_attention.dense",
            ffn__up="ffn.0",
            ffn__down="ffn.2",
        ),
    ],
    prefix="transformer.",
    harmless=(*DROPOUTS, *SUMMARY, "layer_norm_epsilon"),
    whole_heads=True,
)
BLOOM_LAYER = "transformer.h.{n}"
BLOOM = Family(
    name="bloom",
    architecture="BloomForCausalLM",
    always={
        **CORE,
        "position": {"name": "alibi", "max_slope_exponent": 8.0, "scaled": False},
        "embedding": {"norm": {"name": "layernorm"}},
        "ffn": {**MLP, "activation": {"name": "gelu", "form": "tanh"}},
    },
    options=[
        *sizes(depth="n_layer", heads="n_head", context="seq_length"),
        *(EPS, TIED, Option("embedding.norm.eps", "layer_norm_epsilon", 1e-5)),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.word_embeddings.weight", SAME),
        *linear("embedding_norm.0", "transformer.word_embeddings_layernorm"),
        *linear("final_norm", "transformer.ln_f"),
        Row(("head.weight",), "lm_head.weight", SAME),
        *linear(QKV, f"{BLOOM_LAYER}.self_attention.query_key_value", BY_HEAD),
        *placed(
            BLOOM_LAYER,
            attention_residual__input_norm="input_layernorm",
            attention__out="self_attention.dense",
            ffn_residual__input_norm="post_attention_layernorm",
            ffn__up="mlp.dense_h_to_4h",
            ffn__down="mlp.dense_4h_to_h",
        ),
    ],
    prefix="transformer.",
    unpack=lambda config: {"seq_length": 2048, **bloom_names(config)},
    must={"apply_residual_connection_post_layernorm": (False,)},
    harmless=(
        *("hidden_dropout", "slow_but_exact", "offset_alibi", "skip_bias_add", "unk_token_id"),
        *("skip_bias_add_qkv", "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion"),
    ),
    whole_heads=True,
)


def bloom_names(config: dict[str, Any]) -> dict[str, Any]:
    """The names that the first configs had."""
    old = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    return {old.get(key, key): value for key, value in config.items()}


NEOX_JAPANESE_LAYER = "gpt_neox_japanese.layers.{n}"


def wide_by(config: dict[str, Any]) -> dict[str, Any]:
    """The hidden width as a multiple of the width."""
    config = dict(config)
    times, width = config.pop("intermediate_multiple_size", 4), config.get("hidden_size")
    if not isinstance(times, int) or not isinstance(width, int) or times < 1:
        raise CheckpointFormatError(f"intermediate_multiple_size is {shown(times)}, and should be a number")
    return {**config, "inner": times * width}


def times_wide(config: dict[str, Any]) -> dict[str, Any]:
    inner = config["inner"]
    rest = {key: value for key, value in config.items() if key != "inner"}
    return {**rest, "intermediate_multiple_size": inner // config["hidden_size"]}


GPT_NEOX_JAPANESE = Family(
    name="gpt_neox_japanese",
    architecture="GPTNeoXJapaneseForCausalLM",
    always={
        **CORE,
        "position": {"name": "rope"},
        "attention": {"name": "softmax"},
        "ffn": {"name": "mlp", "bias": []},
        "variants": {"plain": {"attention": {"bias": []}}, "last": {"attention": {"bias": ["out"]}}},
    },
    options=[
        *(*sizes(), ROPE, EPS._replace(theirs="layer_norm_eps"), TIED, activation(default="gelu")),
        Option("ffn.width", "inner"),
    ],
    rows=[
        Row(("embedding.weight",), "gpt_neox_japanese.embed_in.weight", SAME),
        *linear("final_norm", "gpt_neox_japanese.final_layer_norm"),
        Row(("head.weight",), "embed_out.weight", SAME),
        Row(
            tuple(f"{name}.weight" for name in QKV),
            f"{NEOX_JAPANESE_LAYER}.attention.query_key_value.weight",
            BY_HEAD,
        ),
        Row((f"{LAYER}.attention.out.weight",), f"{NEOX_JAPANESE_LAYER}.attention.dense.weight", SAME),
        Row((f"{LAYER}.attention.out.bias",), f"{NEOX_JAPANESE_LAYER}.attention.dense_bias", SAME),
        *placed(
            NEOX_JAPANESE_LAYER,
            attention_residual__input_norm="input_layernorm",
            ffn_residual__input_norm="post_attention_layernorm",
            ffn__up="mlp.dense_h_to_4h",
            ffn__down="mlp.dense_4h_to_h",
        ),
    ],
    prefix="gpt_neox_japanese.",
    axes=(
        Axis(
            (),
            lambda config: ["plain"] * (config["num_hidden_layers"] - 1) + ["last"],
            lambda found: {},
            lambda layer: "last" if layer["attention"].get("bias") else "plain",
        ),
    ),
    unpack=wide_by,
    pack=times_wide,
    harmless=("hidden_dropout",),
    whole_heads=True,
)
PERSIMMON_LAYER = "model.layers.{n}"
PERSIMMON = Family(
    name="persimmon",
    architecture="PersimmonForCausalLM",
    always={
        **CORE,
        "position": {"name": "rope"},
        "attention": {"name": "softmax", "bias": ALL, "qk_norm_over": "head"},
    },
    options=[
        *(*sizes(), ROPE, EPS._replace(theirs="layer_norm_eps"), UNTIED, activation(default="relu2")),
        Option("ffn.width", "intermediate_size"),
        Option("attention.qk_norm", "qk_norm", {}),
    ],
    rows=[
        *ends("model.embed_tokens", "model.final_layernorm"),
        *linear(QKV, f"{PERSIMMON_LAYER}.self_attn.query_key_value", BY_HEAD),
        *placed(
            PERSIMMON_LAYER,
            attention_residual__input_norm="input_layernorm",
            attention__out="self_attn.dense",
            attention__q_norm="self_attn.q_layernorm",
            attention__k_norm="self_attn.k_layernorm",
            ffn_residual__input_norm="post_attention_layernorm",
            ffn__up="mlp.dense_h_to_4h",
            ffn__down="mlp.dense_4h_to_h",
        ),
    ],
    prefix="model.",
    unpack=lambda config: head_norm(config),
    pack=lambda config: {
        **{key: value for key, value in config.items() if key != "qk_norm"},
        "qk_layernorm": config["qk_norm"].get("name") == "layernorm",
    },
    harmless=("hidden_dropout",),
    rotary_fraction=0.5,
    whole_heads=True,
)


def head_norm(config: dict[str, Any]) -> dict[str, Any]:
    """`qk_layernorm`, with the eps of all norms."""
    config = dict(config)
    if config.pop("qk_layernorm", True):
        return {**config, "qk_norm": {"name": "layernorm", "eps": config.get("layer_norm_eps", 1e-5)}}
    return {**config, "qk_norm": {"name": "none"}}


FAMILIES = (
    *(GPTJ, CODEGEN, OPENAI_GPT, GPT_BIGCODE, GPT_NEO, BIOGPT, OPT, XGLM, CTRL, BLOOM),
    *(GPT_NEOX_JAPANESE, PERSIMMON),
)
