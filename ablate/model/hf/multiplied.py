"""Families with multipliers of embedding, scores, branches and logits: Granite, HyperCLOVA X, MiniCPM 3."""

import math
from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    shown,
)
from ablate.model.hf.gated import EXPERT
from ablate.model.hf.latent import MLA, MLA_ROWS, TURNED, WIDTHS, latent, query_row, spelled_out
from ablate.model.hf.llama import (
    ACTIVATION,
    ALWAYS,
    ATTENTION_BIAS,
    ENDS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    LLAMA,
    PRE,
    THEIRS,
    TIED,
    UNTIED,
    WIDTH,
    norms,
    whole,
)
from ablate.model.hf.llama_kin import GLU_BIAS, LLAMA_SIZES, kin
from ablate.model.hf.mixtures import GATED_MLP, JITTER, LLAMA_ROWS, moe
from ablate.model.hf.rotation import gather
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.scored_mixtures import without
from ablate.model.hf.tables import (
    GATES_UPS,
    ONE_EACH,
    ROPE,
    depth_of,
    listed_axis,
    local_or_global,
    size_options,
)

WITH_MULTIPLIERS: dict[str, Any] = {**ALWAYS, "stream": {"name": "scaled"}}


def positive(value: Any) -> float:
    """A multiplier. Raises CheckpointFormatError."""
    if value is None or not value > 0:
        raise CheckpointFormatError(f"a multiplier is {shown(value)}, and should be a number above 0")
    return float(value)


def one_over(value: Any) -> float:
    """The multiplier that a divisor is. Raises CheckpointFormatError."""
    return 1.0 / positive(value)


_MULTIPLIERS = [
    Option("embedding.scale", "embedding_multiplier", 1.0, read=positive),
    Option("attention.scale", "attention_multiplier", 1.0, read=positive),
    Option("stream.multiplier", "residual_multiplier", 1.0, read=positive),
]
DIVIDED = Option("head.multiplier", "logits_scaling", 1.0, read=one_over, write=one_over)
GRANITE_SIZES = [*LLAMA_SIZES, HEAD_WIDTH, EPS, ATTENTION_BIAS, *_MULTIPLIERS]
DENSE_WIDTH = [WIDTH, ACTIVATION, GLU_BIAS]

# --------------------------------------------------------------------------------------- Granite

GRANITE = kin(
    "granite",
    "GraniteForCausalLM",
    always=WITH_MULTIPLIERS,
    options=[*GRANITE_SIZES, *DENSE_WIDTH, ROPE, UNTIED, DIVIDED],
)


_SHARED_MLP = f"{LAYER}.ffn.shared.0"
_MIXTURE = f"{THEIRS}.block_sparse_moe"


def mixture_rows(router: str, gates_ups: str, downs: str) -> list[Row]:
    """Router, experts in two tensors and the shared expert, which stands beside them."""
    return [
        *LLAMA_ROWS,
        Row((f"{LAYER}.ffn.router.weight",), f"{_MIXTURE}.{router}", SAME),
        Row((f"{EXPERT}.gate.weight", f"{EXPERT}.up.weight"), f"{_MIXTURE}.{gates_ups}", GATES_UPS),
        Row((f"{EXPERT}.down.weight",), f"{_MIXTURE}.{downs}", ONE_EACH),
        Row(
            (f"{_SHARED_MLP}.gate.weight", f"{_SHARED_MLP}.up.weight"),
            f"{THEIRS}.shared_mlp.input_linear.weight",
            STACKED,
        ),
        Row((f"{_SHARED_MLP}.down.weight",), f"{THEIRS}.shared_mlp.output_linear.weight", SAME),
    ]


def shared_expert(config: dict[str, Any]) -> dict[str, Any]:
    """A width of 0 is no shared expert."""
    config = dict(config)
    width = whole(config, "shared_intermediate_size", 0)
    config.pop("shared_intermediate_size", None)
    activation = ACTIVATION.read(config.get("hidden_act", "silu"))
    expert = {**GATED_MLP, "width": width, "activation": activation} if width else {}
    return {**config, "shared": int(width > 0), "shared_expert": expert}


def shared_width(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the width alone."""
    config = dict(config)
    expert, count = config.pop("shared_expert"), config.pop("shared")
    return {**config, "shared_intermediate_size": expert["width"] if expert and count else 0}


EXPERTS = [
    Option("ffn.experts", "num_local_experts", 8),
    Option("ffn.top_k", "num_experts_per_tok", 2),
    Option("ffn.expert.width", "intermediate_size"),
    ACTIVATION._replace(ours="ffn.expert.activation"),
]
SHARED_EXPERT = [
    Option("ffn.shared", "shared", 0),
    Option("ffn.shared_expert", "shared_expert", {}, lambda expert: expert or None, lambda part: part or {}),
]
GRANITEMOE = kin(
    "granitemoe",
    "GraniteMoeForCausalLM",
    always={**WITH_MULTIPLIERS, "ffn": moe("selected", shared=0)},
    options=[*GRANITE_SIZES, *EXPERTS, ROPE, UNTIED, DIVIDED],
    rows=mixture_rows("router.layer.weight", "input_linear.weight", "output_linear.weight"),
    harmless=JITTER,
)
GRANITEMOESHARED = kin(
    "granitemoeshared",
    "GraniteMoeSharedForCausalLM",
    GRANITEMOE,
    always={**WITH_MULTIPLIERS, "ffn": moe("selected")},
    options=[*GRANITEMOE.options, *SHARED_EXPERT],
    unpack=shared_expert,
    pack=shared_width,
    harmless=JITTER,
)

# ------------------------------------------------- Granite with windows, each layer with its own base

LOCAL_WORD, GLOBAL_WORD = "sliding_attention", "full_attention"
BASES = "layer_rope_theta"


def own_bases(config: dict[str, Any]) -> dict[str, Any]:
    """One position for layers with a window and one for the others, of the bases that are listed by layer; 0
    is no position. Raises CheckpointFormatError for several bases among layers of one kind."""
    config = gather(config, 10_000.0, 1.0)
    depth, rope = depth_of(config), config.pop("rope_parameters")
    if config.get("layer_types") is None:
        config["layer_types"] = [LOCAL_WORD if n % 4 else GLOBAL_WORD for n in range(depth)]
    bases, kinds = config.get(BASES), config["layer_types"]
    if bases is None:
        bases = [rope["rope_theta"]] * depth
    if not isinstance(kinds, list) or not isinstance(bases, list) or not len(kinds) == len(bases) == depth:
        raise CheckpointFormatError(f"layer_types and {BASES} should be lists of {depth}, one for each layer")
    config[BASES] = ["turned" if base else "plain" for base in bases]
    for kind in (LOCAL_WORD, GLOBAL_WORD):
        there = [base for base, of in zip(bases, kinds, strict=True) if of == kind and base]
        if any(base != there[0] for base in there):
            raise CheckpointFormatError(
                f"{BASES} has several bases among the layers of {kind}, where one can be expressed"
            )
        base = there[0] if there else rope["rope_theta"]
        config[f"rope_parameters.{kind}"] = {**rope, "rope_theta": base}
    return config


def listed_bases(config: dict[str, Any]) -> dict[str, Any]:
    """Back: a base for each layer, 0 where there is no position."""
    config = dict(config)
    ropes = {kind: config.pop(f"rope_parameters.{kind}", None) for kind in (LOCAL_WORD, GLOBAL_WORD)}
    known = [rope for rope in ropes.values() if rope] or [write_rope({"name": "none"})]
    config["rope_parameters"] = known[0]
    config[BASES] = [
        (ropes[kind] or known[0])["rope_theta"] if word == "turned" else 0
        for kind, word in zip(config["layer_types"], config[BASES], strict=True)
    ]
    return config


def placed_axis() -> Axis:
    """Window and position of a layer, which together say what base it has."""
    windows = listed_axis("layer_types", {LOCAL_WORD: "local", GLOBAL_WORD: "global"}, local_or_global)
    turned = listed_axis(BASES, {"turned": "turned", "plain": "plain"}, lambda layer: "")

    def kind(layer: dict[str, Any]) -> str:
        word = "plain" if layer["position"]["name"] == "none" else "turned"
        return f"{local_or_global(layer)}_{word}"

    def read(config: dict[str, Any]) -> list[str]:
        return [f"{a}_{b}" for a, b in zip(windows.read(config), turned.read(config), strict=True)]

    def write(kinds: list[str]) -> dict[str, Any]:
        pairs = [kind.split("_") for kind in kinds]
        return {**windows.write([a for a, _ in pairs]), **turned.write([b for _, b in pairs])}

    return Axis((*windows.keys, *turned.keys), read, write, kind)


def placed_variants(turned: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The kinds of `placed_axis`, with what those with a position have beside it, and those without."""
    return {
        f"{kind}_{word}": {"position": {"name": name}, **patch}
        for kind in ("local", "global")
        for word, name, patch in (("turned", "rope", turned), ("plain", "none", plain))
    }


SINK = Row((f"{LAYER}.attention.sink",), f"{THEIRS}.self_attn.sinks", SAME)
WITH_SINK: dict[str, Any] = {
    **WITH_MULTIPLIERS,
    "attention": {"name": "softmax", "sink_logit": True},
    "variants": placed_variants({}, {}),
}
WINDOWS_AND_BASES = [
    *(
        Option(f"variants.local_{word}.attention.window", "sliding_window", 128)
        for word in ("turned", "plain")
    ),
    *(
        Option(f"variants.{ours}_turned.position", f"rope_parameters.{kind}", {}, read_rope, write_rope)
        for ours, kind in (("local", LOCAL_WORD), ("global", GLOBAL_WORD))
    ),
]
GRANITE_SWA = kin(
    "granite_swa",
    "GraniteSWAForCausalLM",
    always=WITH_SINK,
    options=[
        *(*without(GRANITE_SIZES, "rms_norm_eps"), EPS._replace(default=1e-5), *DENSE_WIDTH),
        *(TIED, DIVIDED, *WINDOWS_AND_BASES),
    ],
    rows=[*LLAMA.rows, SINK],
    axes=(placed_axis(),),
    unpack=own_bases,
    pack=listed_bases,
)
GRANITEMOE_SWA = kin(
    "granitemoe_swa",
    "GraniteMoeSWAForCausalLM",
    always={**WITH_SINK, "ffn": moe("selected")},
    options=[*GRANITE_SIZES, *EXPERTS, *SHARED_EXPERT, UNTIED, DIVIDED, *WINDOWS_AND_BASES],
    rows=[*mixture_rows("router.weight", "experts.gate_up_proj", "experts.down_proj"), SINK],
    axes=(placed_axis(),),
    unpack=lambda config: shared_expert(own_bases(config)),
    pack=lambda config: shared_width(listed_bases(config)),
    harmless=JITTER,
)

# ---------------------------------------------------------------------------------- HyperCLOVA X

HYPERCLOVAX = kin(
    "hyperclovax",
    "HyperCLOVAXForCausalLM",
    always={part: value for part, value in WITH_MULTIPLIERS.items() if part != "placement"},
    options=[
        *(*without(GRANITE_SIZES, "attention_multiplier"), *DENSE_WIDTH, ROPE, UNTIED),
        Option("attention.scale", "attention_multiplier", None),
        Option("head.multiplier", "logits_scaling", 1.0, read=positive),
        Option(
            "placement",
            "use_post_norm",
            True,
            read=lambda twice: {"name": "sandwich" if twice else "pre"},
            write=lambda placement: placement["name"] == "sandwich",
        ),
    ],
    rows=[
        *LLAMA.rows,
        *norms(attention_output_norm="post_norm1", ffn_output_norm="post_norm2"),
    ],
    whole_heads=True,
)

# ------------------------------------------------------------------------------------- MiniCPM 3


def by_depth_and_width(config: dict[str, Any]) -> dict[str, Any]:
    """Multipliers of branches and logits, of a depth and a width that count as 1."""
    config = latent({"num_key_value_heads": 40, **config})
    depth, width = depth_of(config), whole(config, "hidden_size")
    scale, base = config.pop("scale_depth", 1.4), config.pop("dim_model_base", 256)
    config["residual_multiplier"] = 1.0 if scale is None else positive(scale) / math.sqrt(depth)
    config["logits_scaling"] = 1.0 if base is None else width / positive(base)
    if config.get("v_head_dim") is None:
        config["v_head_dim"] = width // max(1, whole(config, "num_attention_heads"))
    return config


def of_depth_and_width(config: dict[str, Any]) -> dict[str, Any]:
    """Back."""
    config = spelled_out(config)
    base = config["hidden_size"] / config.pop("logits_scaling")
    config["scale_depth"] = config.pop("residual_multiplier") * math.sqrt(config["num_hidden_layers"])
    config["dim_model_base"] = round(base) if math.isclose(base, round(base), rel_tol=1e-9) else base
    return config


MINICPM3 = kin(
    "minicpm3",
    "MiniCPM3ForCausalLM",
    always={**WITH_MULTIPLIERS, "position": TURNED, "attention": MLA},
    options=[
        *(*size_options(), *WIDTHS, EPS._replace(default=1e-5), TIED, ROPE, *DENSE_WIDTH, DIVIDED),
        Option("embedding.scale", "scale_emb", 12.0, read=positive),
        Option("stream.multiplier", "residual_multiplier", 1.0),
    ],
    rows=[*ENDS, *PRE, *MLA_ROWS, query_row("q_b_proj"), query_row("q_proj"), *FEED_FORWARD],
    unpack=by_depth_and_width,
    pack=of_depth_and_width,
    harmless=("qk_head_dim", "head_dim"),
    whole_heads=True,
)
MULTIPLIED_FAMILIES: tuple[Family, ...] = (
    *(GRANITE, GRANITEMOE, GRANITEMOESHARED, GRANITE_SWA, GRANITEMOE_SWA, HYPERCLOVAX, MINICPM3),
)
