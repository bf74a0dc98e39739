"""Falcon-H1: Mamba-2 and attention side by side."""

from typing import Any

from torch import Tensor

from ablate.model.hf.convolution import BAMBA_ROWS, MAMBA2_OPTIONS, MAMBA_PARTS, refuse_bounded
from ablate.model.hf.family import CheckpointFormatError, Option, shown
from ablate.model.hf.hybrid import HEAD_DIM, IN_RECURRENT, MIX, SILU_THROUGHOUT
from ablate.model.hf.llama import ACTIVATION, ALWAYS, ATTENTION, ENDS, EPS, FEED_FORWARD, UNTIED, WIDTH, norms
from ablate.model.hf.llama_kin import GLU_BIAS, kin, renamed
from ablate.model.hf.recurrent import inner_heads, inner_ratio
from ablate.model.hf.tables import ROPE, size_options
from ablate.model.hf.words import flag

BOTH: dict[str, Any] = {"name": "side_by_side", "first": {"name": "softmax"}, "second": {"name": "mamba2"}}
FIRST_MIXER, SECOND_MIXER = f"{MIX}.first", f"{MIX}.second"
_MULTIPLIERS = ("attention_in", "attention_out", "key", "ssm_in", "ssm_out")


def falcon_h1(config: dict[str, Any]) -> dict[str, Any]:
    """The channels of Mamba-2 in widths of the model; its norm, where it has one."""
    config = dict(config)
    refuse_bounded(config.pop("time_step_limit", None))
    normed, before = config.pop("mamba_rms_norm", False), config.pop("mamba_norm_before_gate", True)
    if normed and before:
        raise CheckpointFormatError(
            "mamba_norm_before_gate is true, and Mamba-2's norm stands after the gate"
        )
    eps = config.get("rms_norm_eps", 1e-5)
    config["mamba_norm"] = {"name": "rmsnorm", "eps": eps} if normed else {"name": "none"}
    if config.get("projectors_bias", False) != config.get("mamba_proj_bias", False):
        raise CheckpointFormatError("projectors_bias is not mamba_proj_bias, which no option of ours can say")
    channels, wide = config.pop("mamba_d_ssm", 1024), (config.pop("mamba_expand", 2), config["hidden_size"])
    config = inner_ratio(config, "mamba_n_heads", "mamba_d_head")
    made = round(config["inner_ratio"] * wide[1])
    if made != (wide[0] * wide[1] if channels is None else channels):
        raise CheckpointFormatError(f"mamba_d_ssm is {shown(channels)}, and the heads make {made}")
    return config


def falcon_h1_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: Mamba-2 by its heads. The multipliers are in the weights."""
    config = inner_heads(config, "mamba_n_heads", "mamba_d_head")
    normed = config.pop("mamba_norm").get("name") != "none"
    return {
        **config,
        "mamba_d_ssm": config["mamba_n_heads"] * config["mamba_d_head"],
        "mamba_rms_norm": normed,
        "mamba_norm_before_gate": False,
        "projectors_bias": config["mamba_proj_bias"],
    }


def multipliers(config: dict[str, Any], key: str, count: int | None = None) -> list[float]:
    """One number of the config, or a list of so many; null is 1. Raises CheckpointFormatError."""
    value = config.get(key)
    found = [1.0] * (count or 1) if value is None else value if count else [value]
    numbers = isinstance(found, list | tuple) and all(type(n) in (int, float) for n in found)
    if not numbers or len(found) != (count or 1):
        raise CheckpointFormatError(f"{key} is {shown(value)}, and should be {count or 'one'} numbers")
    return list(found)


def fold_multipliers(config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """The multipliers of the branches, into the weights that they stand beside."""
    into, out, key, ssm_into, ssm_out = (
        multipliers(config, f"{name}_multiplier")[0] for name in _MULTIPLIERS
    )
    gate, down = multipliers(config, "mlp_multipliers", 2)
    factors = {  # of a weight and of its bias
        **{f"attention.first.{name}": (into, 1.0) for name in ("q", "v")},
        "attention.first.k": (into * key, key),
        "attention.first.out": (out, out),
        **{
            f"attention.second.{name}": (ssm_into * number, number)
            for name, number in zip(MAMBA_PARTS, multipliers(config, "ssm_multipliers", 5), strict=True)
        },
        "attention.second.out": (ssm_out, ssm_out),
        "ffn.gate": (gate, gate),
        "ffn.down": (down, down),
    }
    for name, tensor in state.items():
        module, _, leaf = name.partition(".")[2].partition(".")[2].rpartition(".")
        if module in factors and leaf in ("weight", "bias"):
            factor = factors[module][leaf == "bias"]
            state[name] = (tensor.float() * factor).to(tensor.dtype) if factor != 1.0 else tensor


FALCON_H1 = kin(
    "falcon_h1",
    "FalconH1ForCausalLM",
    always={**ALWAYS, "attention": BOTH},
    options=[
        *(*size_options(), ROPE, HEAD_DIM, WIDTH, ACTIVATION, EPS._replace(default=1e-5), UNTIED, GLU_BIAS),
        Option("attention.first.kv_heads", "num_key_value_heads", 8),
        Option("attention.first.bias", "attention_bias", False, *flag("q", "k", "v", "out")),
        Option("attention.second.expand", "inner_ratio"),
        *(
            option._replace(ours=option.ours.replace(IN_RECURRENT, "attention.second"))
            for option in MAMBA2_OPTIONS
            if option.theirs != "mamba_expand"
        ),
        Option("attention.second.norm", "mamba_norm", {}),
        Option("embedding.scale", "embedding_multiplier", 1.0),
        Option("head.multiplier", "lm_head_multiplier", 1.0),
    ],
    rows=[
        *(row._replace(theirs=row.theirs.replace("model.norm.", "model.final_layernorm.")) for row in ENDS),
        *norms(attention_input_norm="input_layernorm", ffn_input_norm="pre_ff_layernorm"),
        *renamed(FEED_FORWARD, {".mlp.": ".feed_forward."}),
        *(
            row._replace(ours=tuple(name.replace(MIX, part) for name in row.ours))
            for rows, part in ((ATTENTION, FIRST_MIXER), (BAMBA_ROWS, SECOND_MIXER))
            for row in rows
        ),
    ],
    must=SILU_THROUGHOUT,
    unpack=falcon_h1,
    pack=falcon_h1_back,
    fold=fold_multipliers,
    harmless=(
        *(f"{name}_multiplier" for name in _MULTIPLIERS),
        *("mlp_multipliers", "ssm_multipliers", "mamba_chunk_size", "num_logits_to_keep", "projectors_bias"),
    ),
)
