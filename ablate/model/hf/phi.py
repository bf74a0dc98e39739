"""Phi-1, 1.5 and 2: attention and feed-forward side by side after one norm, half of each head turns."""

from ablate.model.hf.family import SAME, Family, Option, Row, linear_rows
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import read_activation, write_activation

_LAYER = "layers.{n}"
_THEIRS = "model.layers.{n}"

PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "topology": "parallel",
        "position": {"name": "rope"},
        "attention": {"name": "softmax", "bias": ["q", "k", "v", "out"]},
        "ffn": {"name": "mlp", "bias": ["up", "down"]},
        "head": {"bias": True},
    },
    options=[
        Option("width", "hidden_size"),
        Option("depth", "num_hidden_layers"),
        Option("heads", "num_attention_heads"),
        Option("context", "max_position_embeddings", 2048),
        Option("vocab", "vocab_size"),
        Option("norm.eps", "layer_norm_eps", 1e-5),
        Option("position", "rope_parameters", read=read_rope, write=write_rope),
        Option("attention.kv_heads", "num_key_value_heads", None),
        Option("ffn.width", "intermediate_size"),
        Option("ffn.activation", "hidden_act", "gelu_new", read_activation, write_activation),
        Option("head.tied", "tie_word_embeddings", False),
    ],
    rows=[
        Row(("embedding.weight",), "model.embed_tokens.weight", SAME),
        *linear_rows(f"{_LAYER}.attention_residual.input_norm", f"{_THEIRS}.input_layernorm"),
        *linear_rows(f"{_LAYER}.attention.q", f"{_THEIRS}.self_attn.q_proj"),
        *linear_rows(f"{_LAYER}.attention.k", f"{_THEIRS}.self_attn.k_proj"),
        *linear_rows(f"{_LAYER}.attention.v", f"{_THEIRS}.self_attn.v_proj"),
        *linear_rows(f"{_LAYER}.attention.out", f"{_THEIRS}.self_attn.dense"),
        *linear_rows(f"{_LAYER}.ffn.up", f"{_THEIRS}.mlp.fc1"),
        *linear_rows(f"{_LAYER}.ffn.down", f"{_THEIRS}.mlp.fc2"),
        *linear_rows("final_norm", "model.final_layernorm"),
        *linear_rows("head", "lm_head"),
    ],
    prefix="model.",
    must={"qk_layernorm": (False,)},
    harmless=("embd_pdrop", "resid_pdrop"),
    rotary_fraction=0.5,
)
