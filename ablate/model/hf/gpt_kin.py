"""Families before LLaMA: layer norms, biases, positions of their own, and names of GPT-2's kind."""

from typing import Any

import torch

from ablate.model.hf.family import (
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
    linear_rows,
    shown,
)
from ablate.model.hf.llama import LAYER
from ablate.model.hf.tables import (
    INTERLEAVED,
    activation_option,
    local_or_global,
    size_options,
)
from ablate.model.hf.words import read_activation, write_activation

GPT_QKV = tuple(f"{LAYER}.attention.{name}" for name in ("q", "k", "v"))
GPT_SIZES = size_options(
    width="n_embd", depth="n_layer", heads="n_head", context="n_positions", vocab="vocab_size"
)
GPT_EPS = Option("norm.eps", "layer_norm_epsilon", 1e-5)
GPT_TIED = Option("head.tied", "tie_word_embeddings", True)
GPT_UNTIED = Option("head.tied", "tie_word_embeddings", False)
INNER = Option("ffn.width", "n_inner", None)
NEW_GELU = activation_option(theirs="activation_function", default="gelu_new")
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "summary_type", "summary_use_proj")
SUMMARY = ("summary_activation", "summary_proj_to_labels", "summary_first_dropout")
GPT_MLP: dict[str, Any] = {"name": "mlp", "bias": ["up", "down"]}
ALL = ["q", "k", "v", "out"]
GPT_CORE: dict[str, Any] = {
    "norm": {"name": "layernorm"},
    "placement": "pre",
    "topology": "serial",
    "position": {"name": "learned"},
    "attention": {"name": "softmax", "bias": ALL},
    "ffn": GPT_MLP,
}
BEYOND = Change(  # a table of positions whose first two rows stand for nothing
    lambda x, like, shape: [x[2:]],
    lambda ours, shape: torch.cat((torch.zeros_like(ours[0][:2]), ours[0])),
)


def placed(layer: str, **slots: str) -> list[Row]:
    """Ours to theirs, weight and bias: `attention__q="attn.q_proj"`."""
    rows: list[Row] = []
    for ours, theirs in slots.items():
        rows += linear_rows(f"{LAYER}.{ours.replace('__', '.')}", f"{layer}.{theirs}")
    return rows


def end_rows(embedding: str, norm: str, head: str = "lm_head", positions: str | None = None) -> list[Row]:
    """The rows outside of the layers."""
    rows = [
        Row(("embedding.weight",), f"{embedding}.weight", SAME),
        *linear_rows("final_norm", norm),
        *linear_rows("head", head),
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
        **GPT_CORE,
        "topology": "parallel",
        "position": {"name": "rope", "interleaved": True},
        "attention": {"name": "softmax", "bias": []},
        "head": {"bias": True},
    },
    options=[*GPT_SIZES, GPT_EPS, GPT_UNTIED, INNER, NEW_GELU, INTERLEAVED],
    rows=[
        *end_rows("transformer.wte", "transformer.ln_f"),
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
        *end_rows("transformer.wte", "transformer.ln_f"),
        *placed(GPTJ_LAYER, attention_residual__input_norm="ln_1", attention__out="attn.out_proj"),
        Row(tuple(f"{name}.weight" for name in GPT_QKV), f"{GPTJ_LAYER}.attn.qkv_proj.weight", IN_FOUR),
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
    *linear_rows(GPT_QKV, "transformer.h.{n}.attn.c_attn", STACKED_TRANSPOSED),
    *linear_rows(f"{LAYER}.attention.out", "transformer.h.{n}.attn.c_proj", TRANSPOSED),
    *linear_rows(f"{LAYER}.ffn.up", "transformer.h.{n}.mlp.c_fc", TRANSPOSED),
    *linear_rows(f"{LAYER}.ffn.down", "transformer.h.{n}.mlp.c_proj", TRANSPOSED),
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
    """Back, where the family has a name for it."""
    return {"gelu_new": "gelu", "gelu": "exact gelu"}.get(name := write_activation(ours), name)


OPENAI_GPT = Family(
    name="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    always={**GPT_CORE, "placement": "post"},
    options=[*GPT_SIZES, GPT_EPS, GPT_TIED, Option("ffn.activation", "afn", "gelu", read_afn, write_afn)],
    rows=[
        *end_rows("transformer.tokens_embed", "transformer.nothing", positions="transformer.positions_embed"),
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
    always={**GPT_CORE, "attention": {"name": "softmax", "bias": ALL, "kv_heads": 1}},
    options=[*GPT_SIZES, GPT_EPS, GPT_TIED, INNER, NEW_GELU._replace(default="gelu_pytorch_tanh")],
    rows=[
        *end_rows("transformer.wte", "transformer.ln_f", positions="transformer.wpe"),
        *BLOCK_NORMS,
        *linear_rows(GPT_QKV, "transformer.h.{n}.attn.c_attn", STACKED),
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
    if config.get("attention_layers") not in (None, found):
        raise CheckpointFormatError("attention_layers is not what attention_types says; take it out")
    return found


GPT_NEO = Family(
    name="gpt_neo",
    architecture="GPTNeoForCausalLM",
    always={
        **GPT_CORE,
        "attention": {"name": "softmax", "bias": ["out"], "scale": 1.0},
        "variants": {"local": {}, "global": {}},
    },
    options=[
        *size_options(depth="num_layers", heads="num_heads"),
        *(GPT_EPS, GPT_TIED, NEW_GELU, Option("ffn.width", "intermediate_size", None)),
        Option("variants.local.attention.window", "window_size", 256),
    ],
    rows=[
        *end_rows("transformer.wte", "transformer.ln_f", positions="transformer.wpe"),
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


GPT_KIN_FAMILIES = (GPTJ, CODEGEN, OPENAI_GPT, GPT_BIGCODE, GPT_NEO)
