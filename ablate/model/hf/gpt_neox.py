"""GPT-NeoX and Pythia: a quarter of each head turns, and attention and feed-forward stand side by side."""

from ablate.model.hf.family import BY_HEAD, SAME, Family, Option, Row, linear_rows
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import flag, read_activation, write_activation

_LAYER = "layers.{n}"
_THEIRS = "gpt_neox.layers.{n}"
_QKV = tuple(f"{_LAYER}.attention.{name}" for name in ("q", "k", "v"))

GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "position": {"name": "rope"},
        "attention": {"name": "softmax"},
        "ffn": {"name": "mlp", "bias": ["up", "down"]},
    },
    options=[
        Option("width", "hidden_size"),
        Option("depth", "num_hidden_layers"),
        Option("heads", "num_attention_heads"),
        Option("context", "max_position_embeddings", 2048),
        Option("vocab", "vocab_size"),
        Option(
            "topology",
            "use_parallel_residual",
            True,
            read=lambda parallel: {"name": "parallel_two_norms" if parallel else "serial"},
            write=lambda topology: topology["name"] == "parallel_two_norms",
        ),
        Option("norm.eps", "layer_norm_eps", 1e-5),
        Option("position", "rope_parameters", read=read_rope, write=write_rope),
        Option("attention.bias", "attention_bias", True, *flag("q", "k", "v", "out")),
        Option("ffn.width", "intermediate_size"),
        Option("ffn.activation", "hidden_act", "gelu", read_activation, write_activation),
        Option("head.tied", "tie_word_embeddings", False),
    ],
    rows=[
        Row(("embedding.weight",), "gpt_neox.embed_in.weight", SAME),
        *linear_rows(f"{_LAYER}.attention_residual.input_norm", f"{_THEIRS}.input_layernorm"),
        *linear_rows(_QKV, f"{_THEIRS}.attention.query_key_value", BY_HEAD),
        *linear_rows(f"{_LAYER}.attention.out", f"{_THEIRS}.attention.dense"),
        *linear_rows(f"{_LAYER}.ffn_residual.input_norm", f"{_THEIRS}.post_attention_layernorm"),
        *linear_rows(f"{_LAYER}.ffn.up", f"{_THEIRS}.mlp.dense_h_to_4h"),
        *linear_rows(f"{_LAYER}.ffn.down", f"{_THEIRS}.mlp.dense_4h_to_h"),
        *linear_rows("final_norm", "gpt_neox.final_layer_norm"),
        Row(("head.weight",), "embed_out.weight", SAME),
    ],
    prefix="gpt_neox.",
    harmless=("hidden_dropout", "classifier_dropout", "is_decoder"),
    rotary_fraction=0.25,
    whole_heads=True,
    old_rope=("rotary_emb_base", "rotary_pct"),
)
