"""Families with routed experts in all or some layers."""

from typing import Any

import torch

from ablate.model.hf.family import (
    SAME,
    Axis,
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
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    OLMO2,
    PRE,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
    WIDTH,
)
from ablate.model.hf.llama_kin import (
    HEAD_NORMS,
    LLAMA_SIZES,
    NOPE_GLOBAL,
    QKV_PARTS,
    WINDOW,
    kin,
)
from ablate.model.hf.llama_layers import (
    LOCAL_ROPES,
    TWO_ROPES,
    ropes,
)
from ablate.model.hf.tables import (
    FLAT,
    INTERLEAVED,
    OF_EXPERTS,
    ROPE,
    SPARSE_LISTED,
    SPARSE_STEPS,
    activation_option,
    all_full,
    depth_of,
    expert_rows,
    halves,
    sparse_or_dense,
    whole_number,
    windowed,
)
from ablate.model.hf.words import flag

GATED_MLP: dict[str, Any] = {"name": "glu"}
JITTER = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
LATER = ("num_nextn_predict_layers",)  # heads for later tokens, which transformers leaves out
LLAMA_ROWS = [*ENDS, *PRE, *ATTENTION]
SPARSE = "variants.sparse.ffn"


def moe(normalisation: str, **options: Any) -> dict[str, Any]:
    """A mixture of gated experts, as `always` says it."""
    return {"name": "moe", "normalisation": normalisation, "expert": GATED_MLP, **options}


def dense_and_sparse(mixture: dict[str, Any]) -> dict[str, Any]:
    """Dense layers and sparse ones."""
    return {"dense": {"ffn": GATED_MLP}, "sparse": {"ffn": mixture}}


def routed_options(
    at: str,
    experts: str,
    top_k: str = "num_experts_per_tok",
    width: str = "moe_intermediate_size",
    shared: str | None = None,
    scale: str | None = None,
) -> list[Option]:
    """The options of experts at this path, by their keys."""
    options = [
        Option(f"{at}.experts", experts),
        Option(f"{at}.top_k", top_k),
        Option(f"{at}.expert.width", width),
        activation_option(f"{at}.expert"),
    ]
    if shared is not None:
        options.append(Option(f"{at}.shared", shared, 0, read=lambda n: n or 0))
    if scale is not None:
        options.append(Option(f"{at}.routed_scale", scale, 1.0))
    return options


DENSE = [WIDTH._replace(ours="variants.dense.ffn.width"), activation_option("variants.dense.ffn")]


def renormalised(at: str, default: bool, no: str = "all", yes: str = "renormalised") -> Option:
    """`norm_topk_prob`: whether the gates of the chosen are divided by their sum."""
    return Option(
        f"{at}.normalisation",
        "norm_topk_prob",
        default,
        read=lambda on: yes if on else no,
        write=lambda kind: kind == yes,
    )


QWEN3_MOE = kin(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    always={**ALWAYS, "attention": HEAD_NORMS, "variants": dense_and_sparse(moe("all"))},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS, QK_NORM, ATTENTION_BIAS, UNTIED, *DENSE),
        *(*routed_options(SPARSE, "num_experts"), renormalised(SPARSE, False)),
    ],
    rows=[*LLAMA_ROWS, *QK_NORMS, *FEED_FORWARD, *expert_rows()],
    axes=(SPARSE_STEPS,),
    must={"use_sliding_window": (False,), "sliding_window": (None,)},
    harmless=(*JITTER, "max_window_layers"),
    unpack=lambda config: one_count(config),
    pack=lambda config: {**config, "num_local_experts": config["num_experts"]},
)


def one_count(config: dict[str, Any]) -> dict[str, Any]:
    """Configs of transformers 5.24 say `num_local_experts`, older ones `num_experts`; both must agree."""
    config = dict(config)
    local = config.pop("num_local_experts", None)
    if local is not None and config.setdefault("num_experts", local) != local:
        raise CheckpointFormatError(
            f"num_experts is {shown(config['num_experts'])} and num_local_experts {shown(local)}; keep one"
        )
    return config


def qwen2_moe_layers(config: dict[str, Any]) -> dict[str, Any]:
    """A shared expert with a gate in each sparse layer; `qkv_bias` unless it is said."""
    return {"qkv_bias": True, **all_full(config)}


QWEN2_MOE = kin(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    always={
        **ALWAYS,
        "variants": dense_and_sparse(moe("all", shared=1, shared_gate=True, shared_expert=GATED_MLP)),
    },
    options=[
        *(
            *LLAMA_SIZES,
            ROPE,
            EPS,
            UNTIED,
            *DENSE,
            Option("attention.bias", "qkv_bias", True, *flag(*QKV_PARTS)),
        ),
        *(*routed_options(SPARSE, "num_experts"), renormalised(SPARSE, False)),
        Option(f"{SPARSE}.shared_expert.width", "shared_expert_intermediate_size"),
        activation_option(f"{SPARSE}.shared_expert"),
    ],
    rows=[
        *(*LLAMA_ROWS, *FEED_FORWARD, *expert_rows(shared="mlp.shared_expert")),
        Row((f"{LAYER}.ffn.shared_gate.weight",), f"{THEIRS}.mlp.shared_expert_gate.weight", SAME),
    ],
    axes=(SPARSE_STEPS,),
    must={"use_sliding_window": (False,)},
    harmless=(*JITTER, "max_window_layers", "sliding_window", "num_local_experts"),
    unpack=qwen2_moe_layers,
)
OLMOE = kin(
    "olmoe",
    "OlmoeForCausalLM",
    always={
        **ALWAYS,
        "attention": {**HEAD_NORMS, "qk_norm_over": "width"},
        "ffn": moe("all"),
    },
    options=[
        *(
            *LLAMA_SIZES,
            ROPE,
            UNTIED,
            ATTENTION_BIAS,
            EPS._replace(default=1e-5),
            QK_NORM._replace(default=1e-5),
        ),
        *(*routed_options("ffn", "num_experts", width="intermediate_size"), renormalised("ffn", False)),
        Option("attention.clip_qkv", "clip_qkv", None),
    ],
    rows=[*LLAMA_ROWS, *QK_NORMS, *expert_rows()],
    harmless=(*JITTER, "num_local_experts"),
)
FLEX_OLMO = kin(
    "flex_olmo",
    "FlexOlmoForCausalLM",
    OLMO2,
    always={**OLMO2.always, "ffn": moe("all")},
    options=[
        *(*LLAMA_SIZES, ROPE, EPS, QK_NORM, UNTIED, ATTENTION_BIAS, renormalised("ffn", False)),
        *routed_options("ffn", "num_experts", width="intermediate_size"),
    ],
    rows=[*(row for row in OLMO2.rows if row not in FEED_FORWARD), *expert_rows()],
    harmless=JITTER,
    theta=500_000.0,
)
ARIA = kin(
    "aria_text",
    "AriaTextForCausalLM",
    always={**ALWAYS, "ffn": moe("selected")},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS, UNTIED, ATTENTION_BIAS),
        *routed_options("ffn", "moe_num_experts", "moe_topk", "intermediate_size", "moe_num_shared_experts"),
    ],
    rows=[
        *(*LLAMA_ROWS, *linear_rows(f"{LAYER}.ffn.router", f"{THEIRS}.mlp.router")),
        *(row for row in expert_rows(shared="mlp.shared_experts") if "shared" in row.theirs),
        Row(
            (f"{LAYER}.ffn.experts.{{e}}.gate.weight", f"{LAYER}.ffn.experts.{{e}}.up.weight"),
            f"{THEIRS}.mlp.experts.fc1.weight",
            Change(
                lambda x, like, shape: [part.t() for half in x.chunk(2, -1) for part in half.unbind()],
                lambda ours, shape: torch.cat(
                    [torch.stack([w.t() for w in half]) for half in halves(ours)], -1
                ),
            ),
        ),
        Row((f"{LAYER}.ffn.experts.{{e}}.down.weight",), f"{THEIRS}.mlp.experts.fc2.weight", OF_EXPERTS),
    ],
    must={"mlp_bias": (False,), "hidden_act": ("silu",)},
)


def ernie_layers(config: dict[str, Any]) -> list[str]:
    """Sparse from one layer to another, in steps."""
    depth = depth_of(config)
    start, step = (
        whole_number(config, "moe_layer_start_index", 1),
        whole_number(config, "moe_layer_interval", 1),
    )
    end = config.get("moe_layer_end_index", -1)
    last = depth - 1 if end == -1 else end
    if isinstance(last, bool) or not isinstance(last, int) or step < 1:
        raise CheckpointFormatError(f"moe_layer_end_index is {shown(end)}, and should be a layer's number")
    return ["sparse" if (n + 1) % step == 0 and start <= n <= last else "dense" for n in range(depth)]


def ernie_indices(found: list[str]) -> dict[str, Any]:
    """Back: the first and the last sparse layer."""
    sparse = [n for n, kind in enumerate(found) if kind == "sparse"] or [len(found)]
    return {
        "moe_layer_start_index": sparse[0],
        "moe_layer_end_index": sparse[-1],
        "moe_layer_interval": 1,
    }


LEAST_SUM = 1e-6  # of the probabilities of the chosen experts


def ernie_gates(config: dict[str, Any]) -> dict[str, Any]:
    """Refuses a least sum of gates that some token's gates could lie below."""
    config = dict(config)
    least = config.pop("moe_norm_min", 1e-12)
    if isinstance(least, bool) or not isinstance(least, int | float) or not least <= LEAST_SUM:
        raise CheckpointFormatError(
            f"moe_norm_min is {shown(least)}; only a number up to {LEAST_SUM:g}, below which no sum of gates "
            "lies, can be expressed"
        )
    return config


ERNIE_AXIS = Axis(
    ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"),
    ernie_layers,
    ernie_indices,
    sparse_or_dense,
)
ERNIE_MOE = kin(
    "ernie4_5_moe",
    "Ernie4_5_MoeForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope", "rotary_fraction": 1.0, "interleaved": True},
        "variants": dense_and_sparse(moe("renormalised")),
    },
    options=[
        *(*LLAMA_SIZES, INTERLEAVED, HEAD_WIDTH, EPS._replace(default=1e-5), TIED, *DENSE),
        *routed_options(SPARSE, "moe_num_experts", "moe_k", shared="moe_num_shared_experts"),
    ],
    rows=[
        *(*LLAMA_ROWS, *FEED_FORWARD, *expert_rows(shared="mlp.shared_experts")),
        Row((f"{LAYER}.ffn.bias",), f"{THEIRS}.mlp.moe_statics.e_score_correction_bias", FLAT),
    ],
    axes=(ERNIE_AXIS,),
    unpack=ernie_gates,
    must={"use_bias": (False,)},
    harmless=JITTER,
    theta=500_000.0,
)
FLINT = kin(
    "flint",
    "FlintForCausalLM",
    always={
        **ALWAYS,
        "attention": {**HEAD_NORMS, "sink_logit": True},
        "variants": {**NOPE_GLOBAL, **dense_and_sparse(moe("sigmoid", shared=1, shared_expert=GATED_MLP))},
    },
    options=[
        *(
            *LLAMA_SIZES,
            ROPE._replace(ours="variants.local.position"),
            HEAD_WIDTH,
            EPS,
            QK_NORM,
            ATTENTION_BIAS,
        ),
        *(UNTIED, WINDOW, *DENSE, *routed_options(SPARSE, "num_experts")),
        Option(f"{SPARSE}.shared_expert.width", "shared_expert_intermediate_size"),
        activation_option(f"{SPARSE}.shared_expert"),
    ],
    rows=[
        *(*LLAMA_ROWS, *QK_NORMS, *FEED_FORWARD, *expert_rows(shared="mlp.shared_expert")),
        Row((f"{LAYER}.attention.sink",), f"{THEIRS}.self_attn.softmax_offset", SAME),
    ],
    axes=(windowed(), SPARSE_STEPS),
    must={"norm_topk_prob": (True,)},
    harmless=JITTER,
)
MELLUM = kin(
    "mellum",
    "MellumForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "attention": HEAD_NORMS,
        "variants": {**TWO_ROPES, **dense_and_sparse(moe("renormalised"))},
    },
    options=[
        *(*LLAMA_SIZES, *LOCAL_ROPES, HEAD_WIDTH, EPS, QK_NORM, ATTENTION_BIAS, UNTIED, WINDOW, *DENSE),
        *(*routed_options(SPARSE, "num_local_experts"), renormalised(SPARSE, True)),
    ],
    rows=[*LLAMA_ROWS, *QK_NORMS, *FEED_FORWARD, *expert_rows()],
    axes=(windowed(), SPARSE_LISTED),
    harmless=(*JITTER, *LATER),
    **ropes(full_attention=500_000.0, sliding_attention=10_000.0),
)
W123 = ("w1", "w3", "w2")
MINIMAX_M2 = kin(
    "minimax_m2",
    "MiniMaxM2ForCausalLM",
    always={
        **ALWAYS,
        "position": {"name": "rope"},
        "attention": {**HEAD_NORMS, "qk_norm_over": "width"},
        "ffn": moe("sigmoid"),
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, EPS, QK_NORM, UNTIED),
        *routed_options("ffn", "num_local_experts", width="intermediate_size"),
    ],
    rows=[
        *(*LLAMA_ROWS, *QK_NORMS),
        *expert_rows(
            "block_sparse_moe.experts",
            W123,
            "block_sparse_moe.gate",
            bias="block_sparse_moe.e_score_correction_bias",
        ),
    ],
    harmless=(*JITTER, "rotary_dim"),
    theta=5e6,
)


MIXTURES_FAMILIES: tuple[Family, ...] = (
    *(QWEN3_MOE, QWEN2_MOE, OLMOE, FLEX_OLMO, ARIA, ERNIE_MOE, FLINT, MELLUM, MINIMAX_M2),
)
