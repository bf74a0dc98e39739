"""Families from fairseq, and CTRL, BLOOM, GPT-NeoX Japanese and Persimmon."""

from typing import Any

from ablate.model.hf.family import (
    BY_HEAD,
    SAME,
    Axis,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.gpt_kin import (
    ALL,
    BEYOND,
    DROPOUTS,
    GPT_CORE,
    GPT_EPS,
    GPT_MLP,
    GPT_QKV,
    GPT_SIZES,
    GPT_TIED,
    GPT_UNTIED,
    SUMMARY,
    end_rows,
    placed,
)
from ablate.model.hf.llama import LAYER
from ablate.model.hf.tables import (
    ROPE,
    activation_option,
    size_options,
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
    always={**GPT_CORE, "norm": {"name": "layernorm", "eps": 1e-5}},  # whatever its config says
    options=[
        *(
            *size_options(),
            GPT_TIED,
            SCALED,
            activation_option(default="gelu"),
            Option("ffn.width", "intermediate_size"),
        ),
    ],
    rows=[
        *end_rows("biogpt.embed_tokens", "biogpt.layer_norm", "output_projection"),
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
    always=GPT_CORE,
    options=[
        *(*size_options(), GPT_TIED, Option("ffn.width", "ffn_dim")),
        activation_option(theirs="activation_function", default="relu"),
    ],
    rows=[
        *end_rows("model.decoder.embed_tokens", "model.decoder.final_layer_norm"),
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
        **GPT_CORE,
        "position": {"name": "sinusoidal", "base": 1e4, "halves": True, "offset": 2, "inclusive": True},
    },
    options=[
        *size_options(width="d_model", depth="num_layers", heads="attention_heads"),
        *(GPT_TIED, SCALED, Option("ffn.width", "ffn_dim")),
        activation_option(theirs="activation_function", default="gelu"),
    ],
    rows=[*end_rows("model.embed_tokens", "model.layer_norm"), *fairseq_rows("model.layers.{n}")],
    prefix="model.",
    must={"pad_token_id": (1, 0, None)},  # that row of the table of positions is zeros; 2 is the first in use
    harmless=FAIRSEQ_DROPOUTS,
    whole_heads=True,
)

# -------------------------------------------------------------------------------- the others

CTRL_LAYER = "transformer.h.{n}"
CTRL = Family(
    name="ctrl",
    architecture="CTRLLMHeadModel",
    always={
        **GPT_CORE,
        "norm": {"name": "layernorm", "eps": 1e-6},
        "position": {"name": "sinusoidal", "base": 1e4, "halves": True, "offset": 0, "inclusive": False},
        "embedding": {"scale": "sqrt_width"},
        "ffn": {**GPT_MLP, "activation": {"name": "relu"}},
        "head": {"bias": True},
    },
    options=[*GPT_SIZES, GPT_TIED, Option("ffn.width", "dff")],
    rows=[
        Row(("embedding.weight",), "transformer.w.weight", SAME),
        *linear_rows("final_norm", "transformer.layernorm"),
        *linear_rows("head", "lm_head"),
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
    must={"layer_norm_epsilon": (1e-6,)},  # which counts for the last norm alone
    harmless=(*DROPOUTS, *SUMMARY),
    whole_heads=True,
)
BLOOM_LAYER = "transformer.h.{n}"
BLOOM = Family(
    name="bloom",
    architecture="BloomForCausalLM",
    always={
        **GPT_CORE,
        "position": {"name": "alibi", "max_slope_exponent": 8.0, "scaled": False},
        "embedding": {"norm": {"name": "layernorm"}},
        "ffn": {**GPT_MLP, "activation": {"name": "gelu", "form": "tanh"}},
    },
    options=[
        *size_options(depth="n_layer", heads="n_head", context="seq_length"),
        *(GPT_EPS, GPT_TIED, Option("embedding.norm.eps", "layer_norm_epsilon", 1e-5)),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.word_embeddings.weight", SAME),
        *linear_rows("embedding_norm.0", "transformer.word_embeddings_layernorm"),
        *linear_rows("final_norm", "transformer.ln_f"),
        Row(("head.weight",), "lm_head.weight", SAME),
        *linear_rows(GPT_QKV, f"{BLOOM_LAYER}.self_attention.query_key_value", BY_HEAD),
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
    """Back: the width as a multiple."""
    inner = config["inner"]
    rest = {key: value for key, value in config.items() if key != "inner"}
    return {**rest, "intermediate_multiple_size": inner // config["hidden_size"]}


GPT_NEOX_JAPANESE = Family(
    name="gpt_neox_japanese",
    old_rope=("rotary_emb_base", "rotary_pct"),
    architecture="GPTNeoXJapaneseForCausalLM",
    always={
        **GPT_CORE,
        "position": {"name": "rope"},
        "attention": {"name": "softmax"},
        "ffn": {"name": "mlp", "bias": []},
        "variants": {"plain": {"attention": {"bias": []}}, "last": {"attention": {"bias": ["out"]}}},
    },
    options=[
        *(
            *size_options(),
            ROPE,
            GPT_EPS._replace(theirs="layer_norm_eps"),
            GPT_TIED,
            activation_option(default="gelu"),
        ),
        Option("ffn.width", "inner"),
    ],
    rows=[
        Row(("embedding.weight",), "gpt_neox_japanese.embed_in.weight", SAME),
        *linear_rows("final_norm", "gpt_neox_japanese.final_layer_norm"),
        Row(("head.weight",), "embed_out.weight", SAME),
        Row(
            tuple(f"{name}.weight" for name in GPT_QKV),
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
        **GPT_CORE,
        "position": {"name": "rope"},
        "attention": {"name": "softmax", "bias": ALL, "qk_norm_over": "head"},
    },
    options=[
        *(
            *size_options(),
            ROPE,
            GPT_EPS._replace(theirs="layer_norm_eps"),
            GPT_UNTIED,
            activation_option(default="relu2"),
        ),
        Option("ffn.width", "intermediate_size"),
        Option("attention.qk_norm", "qk_norm", {}),
    ],
    rows=[
        *end_rows("model.embed_tokens", "model.final_layernorm"),
        *linear_rows(GPT_QKV, f"{PERSIMMON_LAYER}.self_attn.query_key_value", BY_HEAD),
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


FAIRSEQ_FAMILIES = (BIOGPT, OPT, XGLM, CTRL, BLOOM, GPT_NEOX_JAPANESE, PERSIMMON)
