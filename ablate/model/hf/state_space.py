"""More families with state-space layers: Granite 4."""

from typing import Any

from ablate.model.hf.convolution import (
    BAMBA_ROWS,
    MAMBA2_OPTIONS,
    implied_heads,
    with_heads,
)
from ablate.model.hf.family import SAME, STACKED, Axis, CheckpointFormatError, Family, Option, Row, shown
from ablate.model.hf.hybrid import (
    BIAS,
    GLOBAL,
    GLOBAL_KV_HEADS,
    GLOBAL_ROPE,
    IN_RECURRENT,
    SILU_THROUGHOUT,
    only,
    recurrent_and_global,
    recurrent_or_global,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    LAYER,
    PRE,
    THEIRS,
    UNTIED,
)
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import GATED_MLP, JITTER, SPARSE, dense_and_sparse, moe, routed_options
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import (
    STACKED_EXPERTS,
    activation_option,
    depth_of,
    listed_axis,
    size_options,
    sparse_or_dense,
    whole_number,
)

MAMBA2: dict[str, Any] = {"name": "mamba2", "norm": {"name": "rmsnorm"}}
NORM_EPS = Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-6)

# --------------------------------------------------------------------------------------- Granite 4

NO_ROPE = {"rope_type": "none", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}


def granite(config: dict[str, Any]) -> dict[str, Any]:
    """RoPE only where `position_embedding_type` says so; logits are reciprocal, and ours multiplied."""
    config = implied_heads(config)
    if config.pop("position_embedding_type", None) != "rope":
        for key in ("rope_theta", "rope_scaling"):
            config.pop(key, None)
        config["rope_parameters"] = NO_ROPE
    return config


def granite_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the word for the position."""
    config = with_heads(config)
    turned = config["rope_parameters"]["rope_type"] != "none"
    if not turned:
        for key in ("rope_parameters", "rope_theta", "rope_scaling"):
            config.pop(key, None)
    return {**config, "position_embedding_type": "rope" if turned else "nope"}


def maybe_turned(parameters: dict[str, Any]) -> dict[str, Any]:
    """Our position; of the type `none` there is none."""
    return {"name": "none"} if parameters["rope_type"] == "none" else read_rope(parameters)


def reciprocal(number: Any) -> float:
    """One over a number; null is 1. Raises CheckpointFormatError."""
    if number is not None and not number > 0:
        raise CheckpointFormatError(f"logits_scaling is {shown(number)}, and should be a number above 0")
    return 1.0 if number is None else 1.0 / number


def scaled_stream(multiplier: Any) -> dict[str, Any]:
    """The stream of a `residual_multiplier`."""
    if multiplier in (None, 1):
        return {"name": "plain"}
    return {"name": "scaled", "multiplier": multiplier}


GRANITE_MULTIPLIERS = [
    Option("stream", "residual_multiplier", 1.0, scaled_stream, lambda made: made.get("multiplier", 1.0)),
    Option("embedding.scale", "embedding_multiplier", 1.0),
    Option("head.multiplier", "logits_scaling", 1.0, reciprocal, reciprocal),
]
_SHARED_MLP = f"{THEIRS}.shared_mlp"
GRANITE_MIXTURE: dict[str, Any] = moe("selected", shared=1, shared_expert=GATED_MLP)
GRANITE_EXPERTS = [
    Row((f"{LAYER}.ffn.router.weight",), f"{THEIRS}.block_sparse_moe.router.layer.weight", SAME),
    *(
        row._replace(theirs=f"{THEIRS}.block_sparse_moe.{theirs}_linear.weight")
        for row, theirs in zip(STACKED_EXPERTS, ("input", "output"), strict=True)
    ),
    *(
        row
        for mlp in (f"{LAYER}.ffn", f"{LAYER}.ffn.shared.0")
        for row in (
            Row((f"{mlp}.gate.weight", f"{mlp}.up.weight"), f"{_SHARED_MLP}.input_linear.weight", STACKED),
            Row((f"{mlp}.down.weight",), f"{_SHARED_MLP}.output_linear.weight", SAME),
        )
    ),
]
WITH_EXPERTS = Axis(  # with none, the shared experts are the feed-forward
    ("num_local_experts",),
    lambda config: ["sparse" if whole_number(config, "num_local_experts", 8) else "dense"] * depth_of(config),
    lambda kinds: {} if "sparse" in kinds else {"num_local_experts": 0, "num_experts_per_tok": 0},
    sparse_or_dense,
)
SHARED_WIDTHS = ("variants.dense.ffn.width", f"{SPARSE}.shared_expert.width")
GRANITEMOEHYBRID = kin(
    "granitemoehybrid",
    "GraniteMoeHybridForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "variants": {**recurrent_and_global(MAMBA2), **dense_and_sparse(GRANITE_MIXTURE)},
    },
    options=[
        *(*size_options(), GLOBAL_KV_HEADS, EPS, NORM_EPS, UNTIED, BIAS, *MAMBA2_OPTIONS),
        GLOBAL_ROPE._replace(
            read=maybe_turned, write=lambda made: NO_ROPE if made["name"] == "none" else write_rope(made)
        ),
        Option(f"{GLOBAL}.scale", "attention_multiplier", 1.0),
        *GRANITE_MULTIPLIERS,
        *(Option(at, "shared_intermediate_size", 1024) for at in SHARED_WIDTHS),
        activation_option("variants.dense.ffn"),
        *routed_options(SPARSE, "num_local_experts", width="intermediate_size"),
        activation_option(f"{SPARSE}.shared_expert"),
    ],
    rows=[*ENDS, *PRE, *only(ATTENTION, "softmax"), *only(BAMBA_ROWS, "mamba2"), *GRANITE_EXPERTS],
    axes=(
        listed_axis(
            "layer_types",
            {
                "linear_attention": "recurrent",
                "full_attention": "global",
                "mamba": "recurrent",
                "attention": "global",
            },
            recurrent_or_global,
        ),
        WITH_EXPERTS,
    ),
    must=SILU_THROUGHOUT,
    unpack=granite,
    pack=granite_back,
    harmless=(*JITTER, "mamba_chunk_size", "normalization_function", "init_method"),
)

STATE_SPACE_FAMILIES: tuple[Family, ...] = (GRANITEMOEHYBRID,)
