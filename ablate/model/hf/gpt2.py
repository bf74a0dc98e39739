"""GPT-2 (transformers keeps its matrices transposed, and q, k and v in one)."""

from ablate.model.hf.family import SAME, STACKED_TRANSPOSED, TRANSPOSED, Family, Option, Row, linear_rows
from ablate.model.hf.words import read_activation, write_activation

_LAYER = "layers.{n}"
_THEIRS = "transformer.h.{n}"
_QKV = tuple(f"{_LAYER}.attention.{name}" for name in ("q", "k", "v"))

GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "topology": "serial",
        "position": "learned",
        "attention": {"name": "softmax", "bias": ["q", "k", "v", "out"]},
        "ffn": {"name": "mlp", "bias": ["up", "down"]},
    },
    options=[
        Option("width", "n_embd", 768),
        Option("depth", "n_layer", 12),
        Option("heads", "n_head", 12),
        Option("context", "n_positions", 1024),
        Option("vocab", "vocab_size", 50257),
        Option("norm.eps", "layer_norm_epsilon", 1e-5),
        Option("ffn.width", "n_inner", None),
        Option("ffn.activation", "activation_function", "gelu_new", read_activation, write_activation),
        Option("head.tied", "tie_word_embeddings", True),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.wte.weight", SAME),
        Row(("positions.0.table.weight",), "transformer.wpe.weight", SAME),
        *linear_rows(f"{_LAYER}.attention_residual.input_norm", f"{_THEIRS}.ln_1"),
        *linear_rows(_QKV, f"{_THEIRS}.attn.c_attn", STACKED_TRANSPOSED),
        *linear_rows(f"{_LAYER}.attention.out", f"{_THEIRS}.attn.c_proj", TRANSPOSED),
        *linear_rows(f"{_LAYER}.ffn_residual.input_norm", f"{_THEIRS}.ln_2"),
        *linear_rows(f"{_LAYER}.ffn.up", f"{_THEIRS}.mlp.c_fc", TRANSPOSED),
        *linear_rows(f"{_LAYER}.ffn.down", f"{_THEIRS}.mlp.c_proj", TRANSPOSED),
        *linear_rows("final_norm", "transformer.ln_f"),
        Row(("head.weight",), "lm_head.weight", SAME),
    ],
    prefix="transformer.",
    must={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    harmless=(
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "reorder_and_upcast_attn"),
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
        *("summary_use_proj", "task_specific_params"),
    ),
)
