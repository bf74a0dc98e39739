"""More families whose recurrent layers follow the delta rule: Qwen3-Next, Lara, Ling 3."""

from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import SAME, STACKED, Change, CheckpointFormatError, Family, Option, Row, shown
from ablate.model.hf.hybrid import (
    GDN,
    GDN_EPS,
    GDN_ROWS,
    GDN_SIZES,
    IN_RECURRENT,
    INTERVAL,
    LINEAR,
    MIX,
    QWEN3_5,
    QWEN_ATTENTION,
    QWEN_OPTIONS,
    SHARED_GATE,
    SILU_THROUGHOUT,
    of_global,
    only,
    recurrent_and_global,
    recurrent_or_global,
)
from ablate.model.hf.latent import IMPLIED, MLA, MLA_ROWS, WIDTHS, latent, query_row, spelled_out
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION,
    ENDS,
    EPS,
    FEED_FORWARD,
    PRE,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
)
from ablate.model.hf.llama_kin import HEAD_NORMS, kin, renamed
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    LATER,
    SPARSE,
    dense_and_sparse,
    moe,
    renormalised,
    routed_options,
)
from ablate.model.hf.rotation import gather, plain_turns_whole
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.scored_mixtures import SIGMOID
from ablate.model.hf.tables import (
    INTERLEAVED,
    SPARSE_STEPS,
    STACKED_EXPERTS,
    activation_option,
    expert_rows,
    listed_axis,
    local_or_global,
    size_options,
    sparse_or_dense,
    whole_number,
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
    must={**QWEN3_5.must, **SILU_THROUGHOUT},
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
        **ALWAYS,
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
    must=SILU_THROUGHOUT,
)

# ----------------------------------------------------------------------------------------- Ling 3

LING = f"{THEIRS}.attention"
LING_KDA: dict[str, Any] = {"name": "kda", "gate_rank": "full", "norm": {"name": "rmsnorm"}}
LING_KDA_NAMES = {
    **{name: f"{name}_proj" for name in ("q", "k", "v", "b")},
    **{f"{name}_conv": f"{name}_conv1d" for name in ("q", "k", "v")},
    "forget_up": "f_proj",
    "gate_up": "g_proj",
    "norm": "o_norm",
    "out": "dense",
}
LING_THETA = 6e6
LING_KEYS = {  # transformers takes either, and writes the second
    "max_position_embeddings": "model_max_length",
    "norm_topk_prob": "moe_renormalize",
    "n_group": "num_expert_group",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": "num_shared_experts",
    "num_mtp_layers": "num_nextn_predict_layers",
}


def ling(config: dict[str, Any]) -> dict[str, Any]:
    """One name for each key; the width of KDA's heads, and the bound of their decay where there is one."""
    config = dict(config)
    for alias, name in LING_KEYS.items():
        if (value := config.pop(alias, None)) is not None and config.setdefault(name, value) != value:
            raise CheckpointFormatError(
                f"{alias} is {shown(value)} and {name} {shown(config[name])}; keep one"
            )
    config["linear_head_dim"] = config.pop("linear_head_dim", None) or config.get("head_dim", 128)
    config = gather(config, LING_THETA, 1.0)
    config["rope_parameters"] = plain_turns_whole(config["rope_parameters"])
    safe, floor = config.pop("kda_safe_gate", True), config.pop("kda_lower_bound", -5.0)
    if not isinstance(safe, bool):
        raise CheckpointFormatError(f"kda_safe_gate is {shown(safe)}, and should be true or false")
    return latent({**config, "log_decay_floor": floor if safe else None})


def ling_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: heads and their decay by the family's keys."""
    config = dict(spelled_out(config))
    floor = config.pop("log_decay_floor")
    said = {"kda_safe_gate": floor is not None, "kda_lower_bound": -5.0 if floor is None else floor}
    return {**config, **said, "head_dim": config["linear_head_dim"]}


def ling_group(n: int, config: dict[str, Any]) -> str:
    """The last layer of each group attends, where a config does not list its layers."""
    period = max(whole_number(config, "layer_group_size", 6), 1)
    return "linear_attention" if (n + 1) % period else "full_attention"


def ling_dense(n: int, config: dict[str, Any]) -> str:
    """The first layers are dense, where a config does not list them."""
    return "dense" if n < whole_number(config, "first_k_dense_replace", 2) else "sparse"


BAILING_HYBRID = kin(
    "bailing_hybrid",
    "BailingHybridForCausalLM",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "position"},
        "position": {"name": "rope"},
        "variants": {
            "recurrent": {"attention": LING_KDA, "position": {"name": "none"}},
            "global": {
                "attention": {**MLA, "gate": "head"},
                "position": {"name": "rope", "interleaved": True},
            },
            **dense_and_sparse(moe("sigmoid")),
        },
    },
    options=[
        *(*size_options(context="model_max_length"), *map(of_global, WIDTHS), EPS, UNTIED),
        INTERLEAVED._replace(ours="variants.global.position"),
        Option(f"{IN_RECURRENT}.head_width", "linear_head_dim"),
        Option(f"{IN_RECURRENT}.convolution", "short_conv_kernel_size", 4),
        Option(f"{IN_RECURRENT}.log_decay_floor", "log_decay_floor", None),
        Option(f"{IN_RECURRENT}.norm.eps", "rms_norm_eps", 1e-6),
        *(*DENSE, SIGMOID._replace(theirs="moe_renormalize")),
        *routed_options(
            SPARSE,
            "num_experts",
            "num_experts_per_token",
            shared="num_shared_experts",
            scale="routed_scaling_factor",
        ),
        Option(f"{SPARSE}.groups", "num_expert_group", 8),
        Option(f"{SPARSE}.top_groups", "topk_group", 4),
    ],
    rows=[
        *(row._replace(theirs=row.theirs.replace("embed_tokens", "word_embeddings")) for row in ENDS),
        *(*PRE, *FEED_FORWARD, *expert_rows(shared="mlp.shared_experts", bias="mlp.gate.expert_bias")),
        *only(
            [
                *(Row((f"{MIX}.{a}.weight",), f"{LING}.{b}.weight", SAME) for a, b in LING_KDA_NAMES.items()),
                Row((f"{MIX}.log_rate",), f"{LING}.A_log", SAME),
                Row((f"{MIX}.time_bias",), f"{LING}.dt_bias", SAME),
            ],
            "kda",
        ),
        *only(
            [
                *renamed(
                    [*MLA_ROWS, query_row("q_b_proj"), query_row("q_proj")],
                    {"self_attn.o_proj": "attention.dense", "self_attn": "attention"},
                ),
                Row((f"{MIX}.gate.weight",), f"{LING}.g_proj.weight", SAME),
            ],
            "mla",
        ),
    ],
    axes=(
        listed_axis(
            "layer_types",
            {"linear_attention": "recurrent", "full_attention": "global"},
            recurrent_or_global,
            ling_group,
        ),
        listed_axis("mlp_layer_types", {"dense": "dense", "sparse": "sparse"}, sparse_or_dense, ling_dense),
    ),
    must=SILU_THROUGHOUT,
    unpack=ling,
    pack=ling_back,
    harmless=(
        *(*JITTER, *LATER, *IMPLIED, "layer_group_size", "first_k_dense_replace", "mtp_loss_scaling_factor"),
        *("linear_num_heads", "linear_conv_kernel_dim"),
    ),
    theta=LING_THETA,
)


DELTA_HYBRID_FAMILIES: tuple[Family, ...] = (QWEN3_NEXT, LARA_MINI, BAILING_HYBRID)
