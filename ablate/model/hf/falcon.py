"""Falcon 7B: multi-query attention and a feed-forward side by side after one norm."""

from ablate.model.hf.family import SAME, STACKED, Family, Option, Row, linear_rows
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import flag, read_activation, write_activation

_LAYER = "layers.{n}"
_THEIRS = "transformer.h.{n}"
_QKV = tuple(f"{_LAYER}.attention.{name}" for name in ("q", "k", "v"))

FALCON = Family(
    name="falcon",
    architecture="FalconForCausalLM",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "topology": "parallel",
        "position": {"name": "rope", "rotary_fraction": 1.0},
        "attention": {"name": "softmax", "kv_heads": 1},
        "ffn": {"name": "mlp"},
    },
    options=[
        Option("width", "hidden_size"),
        Option("depth", "num_hidden_layers"),
        Option("heads", "num_attention_heads"),
        Option("context", "max_position_embeddings", 2048),
        Option("vocab", "vocab_size"),
        Option("norm.eps", "layer_norm_epsilon", 1e-5),
        Option("position", "rope_parameters", read=read_rope, write=write_rope),
        Option("attention.bias", "bias", False, *flag("q", "k", "v", "out")),
        Option("ffn.bias", "bias", False, *flag("up", "down")),
        Option("ffn.width", "ffn_hidden_size", None),
        Option("ffn.activation", "activation", "gelu", read_activation, write_activation),
        Option("head.tied", "tie_word_embeddings", True),
    ],
    rows=[
        Row(("embedding.weight",), "transformer.word_embeddings.weight", SAME),
        *linear_rows(f"{_LAYER}.attention_residual.input_norm", f"{_THEIRS}.input_layernorm"),
        *linear_rows(_QKV, f"{_THEIRS}.self_attention.query_key_value", STACKED),
        *linear_rows(f"{_LAYER}.attention.out", f"{_THEIRS}.self_attention.dense"),
        *linear_rows(f"{_LAYER}.ffn.up", f"{_THEIRS}.mlp.dense_h_to_4h"),
        *linear_rows(f"{_LAYER}.ffn.down", f"{_THEIRS}.mlp.dense_4h_to_h"),
        *linear_rows("final_norm", "transformer.ln_f"),
        Row(("head.weight",), "lm_head.weight", SAME),
    ],
    prefix="transformer.",
    must={
        "multi_query": (True,),
        "parallel_attn": (True,),
        "new_decoder_architecture": (False, None),
        "alibi": (False,),
        "num_ln_in_parallel_attn": (None, 1),
        "apply_residual_connection_post_layernorm": (False,),
    },
    harmless=("hidden_dropout", "num_kv_heads"),
)
