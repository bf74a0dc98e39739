"""Inkling: scores by relative position, short convolutions on the branches, shared experts as sinks."""

from typing import Any

from ablate.model.hf.family import (
    SAME,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    PRE,
    QK_NORMS,
    THEIRS,
)
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import DENSE, GATED_MLP, SPARSE, moe, routed_options
from ablate.model.hf.own_mixtures import SPARSE_WORDS
from ablate.model.hf.tables import (
    ONE_EACH,
    STACKED_EXPERTS,
    listed_axis,
    local_or_global,
    size_options,
    sparse_or_dense,
    whole_number,
)

_SELF = f"{THEIRS}.self_attn"
_NAMES = {  # of keys that have two
    "embedding_multiplier": "logits_mup_width_multiplier",
    "sliding_window": "sliding_window_size",
    "num_local_experts": "n_routed_experts",
    "sconv_kernel_size": "conv_kernel_size",
    "model_max_length": "max_position_embeddings",
}
_WORDS = {"hybrid_sliding": "local", "hybrid": "global"}


def _positive(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise CheckpointFormatError(f"{key} is {shown(value)}, and should be a number above 0")
    return value


def _worked_out(config: dict[str, Any]) -> dict[str, Any]:
    """Keys by one name each; the scales of scores and logits; the temperature of layers that see all."""
    config = dict(config)
    for other, name in _NAMES.items():
        value = config.pop(other, None)
        if value is not None and config.setdefault(name, value) != value:
            raise CheckpointFormatError(f"{other} is {shown(value)}, and {name} is {shown(config[name])}")
    if config.pop("swa_num_attention_heads", 64) != config.get("num_attention_heads"):
        raise CheckpointFormatError("swa_num_attention_heads is not num_attention_heads; here both are one")
    vocab, unpadded = config.get("vocab_size"), config.pop("unpadded_vocab_size", None)
    if unpadded is not None and unpadded != vocab:
        raise CheckpointFormatError(f"unpadded_vocab_size is {shown(unpadded)}: no head here drops logits")
    if config.get("layer_types") is None and config.get("local_layer_ids") is not None:
        raise CheckpointFormatError("local_layer_ids without layer_types; write it as layer_types")
    config.pop("local_layer_ids", None)
    for kind, key in (("global", "head_dim"), ("local", "swa_head_dim")):
        config[f"{kind}.scale"] = 1.0 / _positive(config, key, 128)
    config["multiplier"] = 1.0 / _positive(config, "logits_mup_width_multiplier", 24.0)
    config.pop("logits_mup_width_multiplier", None)
    floor, alpha = config.pop("log_scaling_n_floor", None), config.pop("log_scaling_alpha", 0.1)
    tempered = floor is not None and alpha != 0
    config["tempering"] = alpha if tempered else 0.0
    config["tempered_from"] = floor if tempered else 8192
    config["tempered_by"] = "log_above" if tempered else "log"
    if not whole_number(config, "n_shared_experts", 2):
        raise CheckpointFormatError("n_shared_experts is 0, and this family's router divides by their scores")
    return config


def _written_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back."""
    config = dict(config)
    tempered = config.pop("tempering")
    floor, _ = config.pop("tempered_from"), config.pop("tempered_by")
    multiplier = config.pop("multiplier")
    rest = {key: value for key, value in config.items() if "." not in key}
    local = {"swa_num_key_value_heads": 1, "swa_head_dim": rest["head_dim"], "sliding_window_size": 512}
    return {
        **local,
        **rest,
        "swa_num_attention_heads": rest["num_attention_heads"],
        "logits_mup_width_multiplier": 1.0 / multiplier,
        "log_scaling_n_floor": floor if tempered else None,
        "log_scaling_alpha": tempered or 0.1,
        "tie_word_embeddings": False,
    }


_MIXER = {
    "name": "relative_logits",
    "points": ["k", "v"],
    "qk_norm": {"name": "rmsnorm"},
    "qk_norm_over": "head",
}
_MIXTURE = {
    **moe("sigmoid", shared_expert=GATED_MLP),
    "shared_sink": True,
    "learned_scale": True,
}
_BOTH = ("global", "local")
_INKLING = kin(
    "inkling_text",
    "InklingForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "none"},
        "topology": {"name": "canon", "points": ["attention_out", "ffn_out"]},
        "embedding": {"norm": {"name": "rmsnorm"}},
        "head": {"tied": False},
        "attention": _MIXER,
        "variants": {
            "local": {},
            "global": {},
            "dense": {"ffn": {**GATED_MLP, "learned_scale": True}},
            "sparse": {"ffn": _MIXTURE},
        },
    },
    options=[
        *(*size_options(), HEAD_WIDTH._replace(default=128), EPS),
        Option("embedding.norm.eps", "rms_norm_eps", 1e-6),
        Option("attention.qk_norm.eps", "rms_norm_eps", 1e-6),
        Option("head.multiplier", "multiplier", 1 / 24),
        Option("attention.rank", "d_rel", 16),
        Option("attention.kernel_size", "conv_kernel_size", 4),
        Option("topology.kernel_size", "conv_kernel_size", 4),
        Option("variants.global.attention.kv_heads", "num_key_value_heads", 8),
        Option("variants.global.attention.extent", "rel_extent", 1024),
        Option("variants.global.attention.temperature", "tempering", 0.0),
        Option("variants.global.attention.temperature_floor", "tempered_from", 8192),
        Option("variants.global.attention.temperature_form", "tempered_by", "log"),
        Option("variants.local.attention.kv_heads", "swa_num_key_value_heads", 16),
        Option("variants.local.attention.head_width", "swa_head_dim", 128),
        Option("variants.local.attention.extent", "sliding_window_size", 512),
        Option("variants.local.attention.window", "sliding_window_size", 512),
        *(Option(f"variants.{kind}.attention.scale", f"{kind}.scale") for kind in _BOTH),
        *DENSE,
        *routed_options(SPARSE, "n_routed_experts", shared="n_shared_experts"),
        Option(f"{SPARSE}.routed_scale", "route_scale", 8.0),
        Option(f"{SPARSE}.shared_expert.width", "moe_intermediate_size"),
        DENSE[1]._replace(ours=f"{SPARSE}.shared_expert.activation"),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION, *QK_NORMS, *FEED_FORWARD, *STACKED_EXPERTS),
        Row(("embedding_norm.0.weight",), "model.embed_tokens.embed_norm.weight", SAME),
        Row((f"{LAYER}.attention.relative.weight",), f"{_SELF}.r_proj.weight", SAME),
        Row((f"{LAYER}.attention.profiles",), f"{_SELF}.rel_logits_proj.proj", SAME),
        *(
            row
            for name in "kv"
            for row in linear_rows(
                f"{LAYER}.attention.{name}_canon.convolution", f"{_SELF}.{name}_sconv.conv1d"
            )
        ),
        *linear_rows(f"{LAYER}.canons.attention_out.convolution", f"{THEIRS}.attn_sconv.conv1d"),
        *linear_rows(f"{LAYER}.canons.ffn_out.convolution", f"{THEIRS}.mlp_sconv.conv1d"),
        Row((f"{LAYER}.ffn.output_scale",), f"{THEIRS}.mlp.global_scale", SAME),
        Row((f"{LAYER}.ffn.gate_scale",), f"{THEIRS}.mlp.gate.global_scale", SAME),
        Row((f"{LAYER}.ffn.router.weight",), f"{THEIRS}.mlp.gate.weight", SAME),
        Row((f"{LAYER}.ffn.bias",), f"{THEIRS}.mlp.gate.e_score_correction_bias", SAME),
        *(
            Row(
                (f"{LAYER}.ffn.shared.{{s}}.{name}.weight",),
                f"{THEIRS}.mlp.shared_experts.{name}_proj",
                ONE_EACH,
            )
            for name in ("gate", "up", "down")
        ),
    ],
    axes=(
        listed_axis(
            "layer_types",
            _WORDS,
            local_or_global,
            lambda n, config: "hybrid_sliding" if (n + 1) % 6 else "hybrid",
        ),
        listed_axis("mlp_layer_types", SPARSE_WORDS, sparse_or_dense, lambda n, config: "sparse"),
    ),
    unpack=_worked_out,
    pack=_written_back,
    must={"shared_expert_sink": (True, False)},
    harmless=(
        *("rms_norm_eps_moe_gate", "number_of_conv_states", "num_mtp_layers", "chain_hidden_post_norm"),
        *("mtp_hidden_states_first", "mtp_local_layer_ids", "tie_word_embeddings"),
    ),
)
INKLING_FAMILIES: tuple[Family, ...] = (_INKLING,)
