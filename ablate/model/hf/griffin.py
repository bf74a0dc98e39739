"""Griffin: RecurrentGemma, with RG-LRU beside a window."""

from typing import Any

import torch

from ablate.model.hf.family import SAME, CheckpointFormatError, Family, Option, Row, linear_rows, shown
from ablate.model.hf.hybrid import IN_RECURRENT, MIX, only
from ablate.model.hf.llama import ATTENTION, ENDS, EPS, FEED_FORWARD, THEIRS, TIED, norms
from ablate.model.hf.llama_kin import kin, renamed
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import activation_option, depth_of, listed_axis, size_options, whole_number

WORDS = {"recurrent": "recurrent", "attention": "local"}
LOCAL_LAYERS = "variants.local"
TEMPORAL = f"{THEIRS}.temporal_block"


def griffin(config: dict[str, Any]) -> dict[str, Any]:
    """A word for each layer, the pattern repeated; the embedding's scale as bfloat16 has it; the width of one
    of the feed-forward's two halves."""
    config = dict(config)
    words = config.pop("block_types", ["recurrent", "recurrent", "attention"])
    if not isinstance(words, list) or not words or any(str(word) not in WORDS for word in words):
        raise CheckpointFormatError(
            f"block_types is {shown(words)}, and should be a list of {' and '.join(WORDS)}"
        )
    depth = depth_of(config)
    config["block_types"] = [words[n % len(words)] for n in range(depth)]
    both = whole_number(config, "intermediate_size", 7680)
    if both % 2:
        raise CheckpointFormatError(f"intermediate_size is {both}, and half of it is the width of the gate")
    config["intermediate_size"] = both // 2
    return {**config, "embedding_scale": bfloat16_root(config.get("hidden_size"))}


def bfloat16_root(width: Any) -> float:
    """The square root of a width, rounded as the family's code does. Raises CheckpointFormatError."""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise CheckpointFormatError(f"hidden_size is {shown(width)}, and should be a whole number")
    return float(torch.tensor(width**0.5, dtype=torch.bfloat16))


def griffin_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the width of both halves."""
    said = {key: value for key, value in config.items() if key != "embedding_scale"}
    return {**said, "intermediate_size": 2 * config["intermediate_size"]}


def read_bias(on: bool) -> list[str]:
    """The output projection always has one."""
    return ["k", "out", "q", "v"] if on else ["out"]


RECURRENT_GEMMA = kin(
    "recurrent_gemma",
    "RecurrentGemmaForCausalLM",
    always={
        "norm": {"name": "rmsnorm", "offset": True},
        "placement": "pre",
        "topology": "serial",
        "position": {"name": "rope"},
        "attention": {"name": "softmax"},
        "ffn": {"name": "glu", "bias": ["gate", "up", "down"]},
        "variants": {
            "recurrent": {"attention": {"name": "rg_lru"}, "position": {"name": "none"}},
            "local": {"attention": {"name": "softmax"}, "position": {"name": "rope"}},
        },
    },
    options=[
        *(option._replace(default=8192) if option.ours == "context" else option for option in size_options()),
        *(EPS, TIED, Option("embedding.scale", "embedding_scale")),
        Option("head.softcap", "logits_soft_cap", 30.0),
        Option("ffn.width", "intermediate_size"),
        activation_option("ffn", "hidden_activation", "gelu_pytorch_tanh"),
        activation_option(IN_RECURRENT, "hidden_activation", "gelu_pytorch_tanh"),
        Option(f"{IN_RECURRENT}.recurrent_width", "lru_width", None),
        Option(f"{IN_RECURRENT}.convolution", "conv1d_width", 4),
        Option(f"{LOCAL_LAYERS}.position", "rope_parameters", read=read_rope, write=write_rope),
        Option(f"{LOCAL_LAYERS}.attention.kv_heads", "num_key_value_heads", None),
        Option(f"{LOCAL_LAYERS}.attention.window", "attention_window_size", 2048),
        Option(
            f"{LOCAL_LAYERS}.attention.bias", "attention_bias", False, read_bias, lambda bias: "q" in bias
        ),
    ],
    rows=[
        *(row._replace(theirs=row.theirs.replace("model.norm.", "model.final_norm.")) for row in ENDS),
        *norms(attention_input_norm="temporal_pre_norm", ffn_input_norm="channel_pre_norm"),
        *renamed(FEED_FORWARD, {".mlp.": ".mlp_block."}),
        *only(renamed(ATTENTION, {"self_attn": "temporal_block"}), "softmax"),
        *only(
            [
                *linear_rows(f"{MIX}.u", f"{TEMPORAL}.linear_x"),
                *linear_rows(f"{MIX}.gate", f"{TEMPORAL}.linear_y"),
                *linear_rows(f"{MIX}.out", f"{TEMPORAL}.linear_out"),
                *linear_rows(f"{MIX}.conv", f"{TEMPORAL}.conv_1d"),
                Row((f"{MIX}.log_rate",), f"{TEMPORAL}.rg_lru.recurrent_param", SAME),
                *(
                    Row((f"{MIX}.{ours}_gate.{leaf}",), f"{TEMPORAL}.rg_lru.{theirs}_gate_{leaf}", SAME)
                    for ours, theirs in (("input", "input"), ("decay", "recurrent"))
                    for leaf in ("weight", "bias")
                ),
            ],
            "rg_lru",
        ),
    ],
    axes=(
        listed_axis(
            "block_types",
            WORDS,
            lambda layer: "recurrent" if layer["attention"]["name"] == "rg_lru" else "local",
        ),
    ),
    unpack=griffin,
    pack=griffin_back,
    harmless=("w_init_variance_scale", "final_w_init_variance_scale", "head_dim"),
    rotary_fraction=0.5,
    whole_heads=True,
)

GRIFFIN_FAMILIES: tuple[Family, ...] = (RECURRENT_GEMMA,)
