"""Families whose experts are scored by sigmoids, as DeepSeek-V3's, and gpt-oss."""

from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Change,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import (
    ALWAYS,
    ATTENTION_BIAS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
)
from ablate.model.hf.llama_kin import (
    HEAD_NORMS,
    LAYERNORM_EPS,
    LLAMA_SIZES,
    LOCAL_AND_GLOBAL,
    NOPE_GLOBAL,
    PLACED_NORMS,
    QKV_NAMES,
    QKV_PARTS,
    WINDOW,
    kin,
    renamed,
)
from ablate.model.hf.llama_layers import (
    COHERE2,
    LOGIT_SCALE,
    exaone_types,
    exaone_window,
)
from ablate.model.hf.mixtures import (
    DENSE,
    GATED_MLP,
    JITTER,
    LATER,
    LLAMA_ROWS,
    SPARSE,
    dense_and_sparse,
    moe,
    renormalised,
    routed_options,
)
from ablate.model.hf.tables import (
    INTERLEAVED,
    OF_EXPERTS,
    ONE_EACH,
    ROPE,
    SPARSE_LISTED,
    expert_rows,
    first_dense,
    halves,
    windowed,
    windowed_by,
)
from ablate.model.hf.words import flag

DEEPSEEK_ROWS = [
    *FEED_FORWARD,
    *expert_rows(shared="mlp.shared_experts", bias="mlp.gate.e_score_correction_bias"),
]
GROUP_OPTIONS = [
    Option(f"{SPARSE}.groups", "n_group", 1),
    Option(f"{SPARSE}.top_groups", "topk_group", 1),
]


def deepseek_experts(config: dict[str, Any]) -> dict[str, Any]:
    """The number of experts under one name."""
    config = dict(config)
    local = config.pop("num_local_experts", None)
    return config if local is None else {"n_routed_experts": local, **config}


SOLAR_OPEN = kin(
    "solar_open",
    "SolarOpenForCausalLM",
    always={**ALWAYS, "ffn": moe("sigmoid")},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS._replace(default=1e-5), ATTENTION_BIAS, UNTIED),
        *routed_options("ffn", "n_routed_experts", shared="n_shared_experts", scale="routed_scaling_factor"),
        Option("ffn.groups", "n_group", 1),
        Option("ffn.top_groups", "topk_group", 1),
        renormalised("ffn", True, "sigmoid_all", "sigmoid"),
    ],
    rows=[*LLAMA_ROWS, *DEEPSEEK_ROWS],
    unpack=deepseek_experts,
    harmless=JITTER,
    theta=1e6,
)
SIGMOID = renormalised(SPARSE, True, "sigmoid_all", "sigmoid")
BY_DEEPSEEK = [
    *routed_options(SPARSE, "n_routed_experts", shared="n_shared_experts", scale="routed_scaling_factor"),
    *(*DENSE, *GROUP_OPTIONS, SIGMOID),
]


def glm4_norms(config: dict[str, Any]) -> dict[str, Any]:
    """`use_qk_norm`, with the eps of all norms."""
    config = deepseek_experts(config)
    if config.pop("use_qk_norm", False):
        return {**config, "qk_norm": {"name": "rmsnorm", "eps": config.get("rms_norm_eps", 1e-5)}}
    return {**config, "qk_norm": {"name": "none"}}


def glm4_flag(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the flag alone, since the norms have the eps of all."""
    config = dict(config)
    return {**config, "use_qk_norm": config.pop("qk_norm").get("name") == "rmsnorm"}


GLM4_MOE = kin(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    always={**ALWAYS, "position": {"name": "rope"}, "variants": dense_and_sparse(moe("sigmoid"))},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS._replace(default=1e-5), UNTIED, *BY_DEEPSEEK),
        Option("attention.bias", "attention_bias", False, *flag(*QKV_PARTS)),
        Option("attention.qk_norm", "qk_norm", {}),
    ],
    rows=[*LLAMA_ROWS, *QK_NORMS, *DEEPSEEK_ROWS],
    axes=(first_dense(default=1),),
    unpack=glm4_norms,
    pack=glm4_flag,
    harmless=(*JITTER, *LATER),
    rotary_fraction=0.5,
)


SARVAM_NAMES = {
    "model.embed_tokens": "model.word_embeddings",
    "self_attn.o_proj": "attention.dense",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "gate.e_score_correction_bias": "gate.expert_bias",
}
SARVAM_MOE = kin(
    "sarvam_moe",
    "Glm4MoeForCausalLM",
    GLM4_MOE,
    rows=[
        *(
            row
            for row in renamed(GLM4_MOE.rows, SARVAM_NAMES)
            if not any(f".{name}_proj." in row.theirs and "self_attn" in row.theirs for name in QKV_PARTS)
        ),
        *linear_rows(QKV_NAMES, f"{THEIRS}.attention.query_key_value", STACKED),
    ],
    harmless=GLM4_MOE.harmless,
    rotary_fraction=1.0,
    theta=8_000_000.0,
)


def without(options: list[Option], *names: str) -> list[Option]:
    """Those that are not of these keys."""
    return [option for option in options if option.theirs not in names]


DOTS1 = kin(
    "dots1",
    "Dots1ForCausalLM",
    always={
        **ALWAYS,
        "attention": HEAD_NORMS,
        "variants": {**LOCAL_AND_GLOBAL, **dense_and_sparse(moe("sigmoid"))},
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS, QK_NORM, ATTENTION_BIAS, UNTIED, WINDOW),
        *(*without(BY_DEEPSEEK, "norm_topk_prob"), SIGMOID._replace(default=False)),
    ],
    rows=[*LLAMA_ROWS, *QK_NORMS, *DEEPSEEK_ROWS],
    axes=(windowed(), first_dense()),
    unpack=deepseek_experts,
    harmless=(*JITTER, "max_window_layers"),
)
HY_V3 = kin(
    "hy_v3",
    "HYV3ForCausalLM",
    always={**ALWAYS, "attention": HEAD_NORMS, "variants": dense_and_sparse(moe("sigmoid"))},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, UNTIED, ATTENTION_BIAS, *DENSE),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
        *routed_options(SPARSE, "num_experts", shared="num_shared_experts", scale="router_scaling_factor"),
    ],
    rows=[
        *(*LLAMA_ROWS, *QK_NORMS, *FEED_FORWARD),
        *expert_rows(router="mlp.router.gate", shared="mlp.shared_mlp", bias="mlp.expert_bias"),
    ],
    axes=(SPARSE_LISTED,),
    must={"mlp_bias": (False,)},
    harmless=(*JITTER, "enable_moe_fp32_combine", "num_local_experts"),
    theta=11_158_840.0,
)
EXAONE_MOE = kin(
    "exaone_moe",
    "ExaoneMoeForCausalLM",
    always={
        **ALWAYS,
        "attention": HEAD_NORMS,
        "variants": {**NOPE_GLOBAL, **dense_and_sparse(moe("sigmoid"))},
    },
    options=[
        *(*LLAMA_SIZES, ROPE._replace(ours="variants.local.position"), HEAD_WIDTH, UNTIED, WINDOW, *DENSE),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5), *GROUP_OPTIONS, SIGMOID),
        *routed_options(SPARSE, "num_experts", shared="num_shared_experts", scale="routed_scaling_factor"),
    ],
    rows=[
        *(*LLAMA_ROWS, *QK_NORMS, *FEED_FORWARD),
        *expert_rows(shared="mlp.shared_experts", bias="mlp.e_score_correction_bias"),
    ],
    axes=(windowed_by("sliding_window_pattern", 4), SPARSE_LISTED),
    unpack=exaone_types,
    pack=exaone_window,
    harmless=(*JITTER, "first_k_dense_replace", "num_local_experts"),
)


def cohere_scores(config: dict[str, Any]) -> dict[str, Any]:
    """Two keys that say together how logits become gates."""
    config = dict(config)
    kind, divided = config.pop("expert_selection_fn", "softmax"), config.get("norm_topk_prob", True)
    if kind not in ("softmax", "sigmoid"):
        raise CheckpointFormatError(f"expert_selection_fn is {shown(kind)}; there are softmax and sigmoid")
    config["gates"] = "selected" if kind == "softmax" else ("sigmoid" if divided else "sigmoid_all")
    config.pop("norm_topk_prob", None)
    return config


def cohere_selection(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the two keys, and how shared experts are added."""
    config = dict(config)
    gates = config.pop("gates")
    kind = "softmax" if gates == "selected" else "sigmoid"
    said = {"expert_selection_fn": kind, "norm_topk_prob": gates != "sigmoid_all"}
    return {**config, **said, "shared_expert_combination_strategy": "sum"}


COHERE2_MOE = kin(
    "cohere2_moe",
    "Cohere2MoeForCausalLM",
    COHERE2,
    always={**COHERE2.always, "ffn": {"name": "moe", "expert": GATED_MLP}},
    options=[
        *(*LLAMA_SIZES, INTERLEAVED._replace(ours="variants.local.position"), HEAD_WIDTH, LAYERNORM_EPS),
        *(ATTENTION_BIAS, TIED, LOGIT_SCALE, WINDOW, Option("ffn.normalisation", "gates", "selected")),
        *routed_options("ffn", "num_experts", width="intermediate_size", shared="num_shared_experts"),
    ],
    rows=[
        *(row for row in COHERE2.rows if row not in FEED_FORWARD),
        *expert_rows(shared="mlp.shared_experts"),
    ],
    must={"rms_norm_eps": (None,), "prefix_dense_intermediate_size": (None,)},
    unpack=lambda config: all_sparse(cohere_scores(config)),
    pack=cohere_selection,
    harmless=(*JITTER, "prefix_dense_sliding_window_pattern", "num_local_experts"),
)


def all_sparse(config: dict[str, Any]) -> dict[str, Any]:
    """Refuses dense layers first, means over shared experts, and a scaling that counts for nothing."""
    config = dict(config)
    if config.get("rope_scaling") is not None:
        raise CheckpointFormatError("rope_scaling is not read by transformers; write it into rope_parameters")
    words = config.pop("mlp_layer_types", None) or []
    if "dense" in words:
        raise CheckpointFormatError("mlp_layer_types names dense layers, which turn without a window here")
    strategy = config.pop("shared_expert_combination_strategy", "average")
    if config.get("num_shared_experts") and strategy != "sum":
        raise CheckpointFormatError(
            f"shared_expert_combination_strategy is {shown(strategy)}; only sum can be expressed"
        )
    return config


HUNYUAN_MOE = kin(
    "hunyuan_v1_moe",
    "HunYuanMoEV1ForCausalLM",
    always={
        **ALWAYS,
        "attention": {**HEAD_NORMS, "qk_norm_at": "after"},
        "ffn": moe("renormalised", shared=1),
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, UNTIED, ATTENTION_BIAS),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
        *routed_options("ffn", "num_experts", "moe_topk", "intermediate_size"),
    ],
    rows=[
        *(*LLAMA_ROWS, *PLACED_NORMS),
        *expert_rows(router="mlp.gate.wg", shared="mlp.shared_mlp"),
    ],
    harmless=(*JITTER, "eod_token_id", "num_local_experts"),
)


# -------------------------------------------------------------------------------------- gpt-oss


def in_turns(x: Tensor) -> list[Tensor]:
    """(E, ..., 2 I), gate and up of a channel side by side: those of all experts, the gates first."""
    return [part for which in (0, 1) for part in x[..., which::2].unbind()]


def joined_halves(ours: list[Tensor]) -> Tensor:
    """Back: gates and ups in turns."""
    gates, ups = halves(ours)
    return torch.stack((torch.stack(gates), torch.stack(ups)), -1).flatten(-2)


GATE_UP_EXPERTS = tuple(f"{LAYER}.ffn.experts.{{e}}.{name}" for name in ("gate", "up"))


def without_trained_context(config: dict[str, Any]) -> dict[str, Any]:
    """A trained context stands in `rope_parameters` alone. Raises CheckpointFormatError."""
    if config.get("original_max_position_embeddings") is not None:
        raise CheckpointFormatError("original_max_position_embeddings: write it into rope_parameters")
    return config


GPT_OSS = kin(
    "gpt_oss",
    "GptOssForCausalLM",
    always={
        **ALWAYS,
        "attention": {"name": "softmax", "sink_logit": True},
        "ffn": {
            "name": "moe",
            "normalisation": "selected",
            "router_bias": True,
            "expert": {
                "name": "glu",
                "activation": {"name": "swish"},
                "bias": ["gate", "up", "down"],
                "up_offset": 1.0,
            },
        },
        "variants": LOCAL_AND_GLOBAL,
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS._replace(default=1e-5), UNTIED, WINDOW),
        ATTENTION_BIAS._replace(default=True),
        *without(routed_options("ffn", "num_local_experts", width="intermediate_size"), "hidden_act"),
        Option("ffn.expert.activation.beta", "swiglu_alpha", 1.702),
        Option("ffn.expert.limit", "swiglu_limit", 7.0),
    ],
    unpack=without_trained_context,
    rows=[
        *(*LLAMA_ROWS, *linear_rows(f"{LAYER}.ffn.router", f"{THEIRS}.mlp.router")),
        Row((f"{LAYER}.attention.sink",), f"{THEIRS}.self_attn.sinks", SAME),
        Row(
            tuple(f"{name}.weight" for name in GATE_UP_EXPERTS),
            f"{THEIRS}.mlp.experts.gate_up_proj",
            Change(
                lambda x, like, shape: [part.t() for part in in_turns(x)],
                lambda ours, shape: joined_halves([w.t() for w in ours]),
            ),
        ),
        Row(
            tuple(f"{name}.bias" for name in GATE_UP_EXPERTS),
            f"{THEIRS}.mlp.experts.gate_up_proj_bias",
            Change(lambda x, like, shape: in_turns(x), lambda ours, shape: joined_halves(ours)),
        ),
        Row((f"{LAYER}.ffn.experts.{{e}}.down.weight",), f"{THEIRS}.mlp.experts.down_proj", OF_EXPERTS),
        Row(
            (f"{LAYER}.ffn.experts.{{e}}.down.bias",),
            f"{THEIRS}.mlp.experts.down_proj_bias",
            ONE_EACH,
        ),
    ],
    axes=(windowed(lambda n, config: "full_attention" if n % 2 else "sliding_attention"),),
    must={"hidden_act": ("silu",)},
    harmless=(*JITTER, "initial_context_length", "experts_per_token"),
    theta=150_000.0,
)


SCORED_MIXTURES_FAMILIES: tuple[Family, ...] = (
    *(SOLAR_OPEN, GLM4_MOE, SARVAM_MOE, DOTS1, HY_V3, EXAONE_MOE, COHERE2_MOE, HUNYUAN_MOE, GPT_OSS),
)
