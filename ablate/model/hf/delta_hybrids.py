"""More families whose recurrent layers follow the delta rule: Qwen3-Next, Lara, Ling 3."""

from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import STACKED, Change, CheckpointFormatError, Family, Option, Row, shown
from ablate.model.hf.hybrid import (
    GDN,
    GDN_EPS,
    GDN_ROWS,
    GDN_SIZES,
    INTERVAL,
    LINEAR,
    MIX,
    QWEN3_5,
    QWEN_ATTENTION,
    QWEN_OPTIONS,
    SHARED_GATE,
    only,
    recurrent_and_global,
    recurrent_or_global,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    PRE,
    QK_NORMS,
    TIED,
)
from ablate.model.hf.llama_kin import HEAD_NORMS, kin
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    SPARSE,
    dense_and_sparse,
    moe,
    renormalised,
    routed_options,
)
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import (
    SPARSE_STEPS,
    STACKED_EXPERTS,
    activation_option,
    expert_rows,
    listed_axis,
    local_or_global,
    size_options,
)
from ablate.model.hf.words import flag
from ablate.spec import Shape


def by_key_head(mixer: Any) -> Change:
    """Matrices of which each key head's rows stand together, those of the first matrix first."""

    def read(x: Tensor, like: list[torch.Size], shape: Shape) -> list[Tensor]:
        heads = mixer.key_heads or shape.heads
        of_heads = x.unflatten(0, (heads, -1)).split([size[0] // heads for size in like], 1)
        return [part.flatten(0, 1) for part in of_heads]

    def write(ours: list[Tensor], shape: Shape) -> Tensor:
        of_heads = [part.unflatten(0, (mixer.key_heads or shape.heads, -1)) for part in ours]
        return torch.cat(of_heads, 1).flatten(0, 1)

    return Change(read, write)


def weights(*names: str) -> tuple[str, ...]:
    """The weights of these projections of a mixer."""
    return tuple(f"{MIX}.{name}.weight" for name in names)


def every_fourth(n: int, config: dict[str, Any]) -> str:
    """`full_attention_interval`, where a config does not list its layers."""
    period = config.get("full_attention_interval", 4)
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise CheckpointFormatError(f"full_attention_interval is {shown(period)}, and should be 1 or more")
    return "linear_attention" if (n + 1) % period else "full_attention"


SHARED_OPTIONS = [
    Option(f"{SPARSE}.shared_expert.width", "shared_expert_intermediate_size"),
    activation_option(f"{SPARSE}.shared_expert"),
]
QWEN3_NEXT = kin(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    QWEN3_5,
    always={
        **QWEN3_5.always,
        "variants": {
            **recurrent_and_global(GDN, QWEN_ATTENTION),
            **dense_and_sparse(moe("all", shared=1, shared_gate=True, shared_expert=GATED_MLP)),
        },
    },
    options=[
        *(*QWEN_OPTIONS, *DENSE, *routed_options(SPARSE, "num_experts"), *SHARED_OPTIONS),
        renormalised(SPARSE, True),
    ],
    rows=[
        *(row for row in QWEN3_5.rows if ".linear_attn.in_proj" not in row.theirs),
        *only(
            [
                Row(weights("q", "k", "v", "gate"), f"{LINEAR}.in_proj_qkvz.weight", by_key_head),
                Row(weights("b", "a"), f"{LINEAR}.in_proj_ba.weight", by_key_head),
            ],
            "gated_deltanet",
        ),
        *(*expert_rows(shared="mlp.shared_expert"), SHARED_GATE),
    ],
    axes=(
        listed_axis(
            "layer_types",
            {"linear_attention": "recurrent", "full_attention": "global"},
            recurrent_or_global,
            every_fourth,
        ),
        SPARSE_STEPS,
    ),
    harmless=(*JITTER, *INTERVAL),
)

# ------------------------------------------------------------------------------------------ Lara


LARA_KINDS = ("local", "global")
LARA_MINI = kin(
    "lara_mini",
    "LaraMiniForCausalLM",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "position"},
        "position": {"name": "rope"},
        "ffn": {"name": "moe", "expert": GATED_MLP, "shared": 1, "shared_expert": GATED_MLP},
        "variants": {
            "recurrent": {"attention": GDN, "position": {"name": "none"}},
            "local": {"attention": HEAD_NORMS, "position": {"name": "rope"}},
            "global": {"attention": HEAD_NORMS, "position": {"name": "none"}},
        },
    },
    options=[
        *(*size_options(), Option("head_width", "head_dim", 128), EPS, TIED, *GDN_SIZES, GDN_EPS),
        Option("variants.local.position", "rope_parameters", read=read_rope, write=write_rope),
        Option("variants.local.attention.window", "sliding_window", 512),
        *(
            Option(f"variants.{kind}.attention.{ours}", theirs, default, *how)
            for kind in LARA_KINDS
            for ours, theirs, default, how in (
                ("kv_heads", "num_key_value_heads", 4, ()),
                ("qk_norm.eps", "rms_norm_eps", 1e-6, ()),
                ("bias", "attention_bias", False, flag("q", "k", "v", "out")),
            )
        ),
        *(*routed_options("ffn", "num_experts"), renormalised("ffn", True)),
        Option("ffn.shared_expert.width", "shared_expert_intermediate_size"),
        activation_option("ffn.shared_expert"),
    ],
    rows=[
        *(*ENDS, *PRE, *only([*ATTENTION, *QK_NORMS], "softmax")),
        *only(
            [
                Row(weights("q", "k", "v", "gate", "b", "a"), f"{LINEAR}.in_proj.weight", STACKED),
                *(
                    row._replace(theirs=row.theirs.replace(".norm.weight", ".out_norm.weight"))
                    for row in GDN_ROWS
                ),
            ],
            "gated_deltanet",
        ),
        *(row for row in expert_rows(shared="mlp.shared_expert") if ".experts." not in row.theirs),
        *STACKED_EXPERTS,
    ],
    axes=(
        listed_axis(
            "layer_types",
            {"linear_attention": "recurrent", "sliding_attention": "local", "full_attention": "global"},
            lambda layer: (
                "recurrent" if recurrent_or_global(layer) == "recurrent" else local_or_global(layer)
            ),
        ),
    ),
    harmless=(*JITTER, "num_local_experts"),
)


DELTA_HYBRID_FAMILIES: tuple[Family, ...] = (QWEN3_NEXT, LARA_MINI)
