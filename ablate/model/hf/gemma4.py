"""Gemma 4: per-layer embeddings, keys and values shared by layers, and heads of two widths."""

from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    Change,
    CheckpointFormatError,
    ExportError,
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
    QK_NORMS,
    THEIRS,
    TIED,
    norms,
    whole,
)
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.llama_layers import GEMMA_ACTIVATION
from ablate.model.hf.multiplied import GLOBAL_WORD, LOCAL_WORD
from ablate.model.hf.rotation import gather, plain_turns_whole
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.tables import SIDE_BY_SIDE, depth_of, every, listed_axis, local_or_global, size_options
from ablate.model.hf.words import flag

_PLACES = {"local": LOCAL_WORD, "global": GLOBAL_WORD}
USUAL_ROPES: dict[str, dict[str, Any]] = {
    LOCAL_WORD: {"rope_type": "default", "rope_theta": 10_000.0},
    GLOBAL_WORD: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
NO_LOOKUP = {"name": "none"}


def layer_kinds(config: dict[str, Any]) -> list[str]:
    """`layer_types`; the last layer sees all, whatever a config says."""
    kinds, depth = config.get("layer_types"), depth_of(config)
    if kinds is None:
        kinds = [every(6)(n, config) for n in range(depth)]
    if not isinstance(kinds, list) or len(kinds) != depth:
        raise CheckpointFormatError(f"layer_types is {shown(kinds)}, and should be a list of {depth} words")
    return [*kinds[:-1], GLOBAL_WORD]


def key_sources(kinds: list[str], shared: int) -> dict[str, int]:
    """The last layer of each kind that has keys of its own. Raises CheckpointFormatError."""
    own = kinds[: len(kinds) - shared]
    lacking = sorted(set(kinds) - set(own)) if shared else []
    if shared >= len(kinds) or lacking:
        raise CheckpointFormatError(
            f"num_kv_shared_layers is {shared}: no layer before has keys for {', '.join(lacking) or 'them'}"
        )
    return {kind: len(own) - 1 - own[::-1].index(kind) for kind in set(own)}


def heads_of_layers(config: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    """Width and key-value heads of the layers that see all, which stand by layer or under names of their own.
    Raises CheckpointFormatError where they differ from layer to layer, or stand for others."""
    config = dict(config)
    alike = config.get("attention_k_eq_v", False)
    width = whole(config, "global_head_dim", 512)
    heads = config.get("num_global_key_value_heads") if alike else None
    usual = whole(config, "num_key_value_heads", 4)
    by_layer = config.get("per_layer_config")
    for key in ("global_head_dim", "num_global_key_value_heads", "per_layer_config"):
        config.pop(key, None)
    found = [{"head_dim": width, "num_key_value_heads": heads or usual}]
    if by_layer is not None:
        told = {str(n) for n, kind in enumerate(kinds) if kind == GLOBAL_WORD}
        right = isinstance(by_layer, dict) and set(by_layer) == told
        if not right or not all(isinstance(patch, dict) for patch in by_layer.values()):
            raise CheckpointFormatError(
                f"per_layer_config is {shown(by_layer)}, and should say the same of each layer that sees all"
            )
        usual_of_all = {"head_dim": whole(config, "head_dim", 256), "num_key_value_heads": usual}
        found = [{**usual_of_all, **by_layer[n]} for n in sorted(told)]
    if any(patch != found[0] for patch in found) or set(found[0]) != {"head_dim", "num_key_value_heads"}:
        raise CheckpointFormatError("per_layer_config differs by layer, or says more than heads and widths")
    width = whole(found[0], "head_dim")
    return {**config, "global_width": width, "global_heads": whole(found[0], "num_key_value_heads")}


def gemma4(config: dict[str, Any]) -> dict[str, Any]:
    """What the layers of each kind have, under names of its own. Raises CheckpointFormatError."""
    config, depth = dict(config), depth_of(config)
    kinds = config["layer_types"] = layer_kinds(config)
    config = heads_of_layers(config, kinds)
    both = config.pop("rope_parameters", None) or USUAL_ROPES
    if not isinstance(both, dict) or not all(isinstance(both.get(kind), dict) for kind in set(kinds)):
        raise CheckpointFormatError(f"rope_parameters is {shown(both)}, and should hold an object a kind")
    for kind in _PLACES.values():
        rope = plain_turns_whole(both.get(kind) or USUAL_ROPES[kind])
        context = config.get("max_position_embeddings")
        said = {"rope_parameters": rope, "max_position_embeddings": context}
        config[f"rope_parameters.{kind}"] = gather(said, 10_000.0, 1.0)["rope_parameters"]
    shared = whole(config, "num_kv_shared_layers", 0)
    config.pop("num_kv_shared_layers", None)
    found = key_sources(kinds, min(shared, depth)) if shared else {}
    config["keys"] = ["shared" if n >= depth - shared else "own" for n in range(depth)]
    width = whole(config, "intermediate_size")
    config["shared_width"] = width * (2 if config.pop("use_double_wide_mlp", False) else 1)
    for place, kind in _PLACES.items():
        config[f"{place}_source"] = found.get(kind, 0)
    return config


def gemma4_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back. transformers wants a window even where no layer has one."""
    config = dict(config)
    kinds, keys = config["layer_types"], config.pop("keys")
    config["num_kv_shared_layers"] = keys.count("shared")
    config["rope_parameters"] = {
        kind: config.pop(f"rope_parameters.{kind}", USUAL_ROPES[kind]) for kind in _PLACES.values()
    }
    for place in _PLACES:
        config.pop(f"{place}_source", None)
    double = config.pop("shared_width", None)
    config["use_double_wide_mlp"] = bool(double) and double != config["intermediate_size"]
    patch = {
        "head_dim": config.pop("global_width", None),
        "num_key_value_heads": config.pop("global_heads", None),
    }
    patch = {key: value or config[key] for key, value in patch.items()}
    config["per_layer_config"] = {str(n): patch for n, kind in enumerate(kinds) if kind == GLOBAL_WORD}
    window = config.get("sliding_window") or config["max_position_embeddings"]
    return {**config, "sliding_window": window}


def with_lookups(config: dict[str, Any]) -> dict[str, Any]:
    """The per-layer embeddings as one part. Raises CheckpointFormatError."""
    config = gemma4(config)
    width, vocab = (
        config.pop(key, usual)
        for key, usual in (("hidden_size_per_layer_input", 256), ("vocab_size_per_layer_input", 262_144))
    )
    config["lookup"] = NO_LOOKUP
    if width:
        if vocab != config.get("vocab_size"):
            raise CheckpointFormatError(
                f"vocab_size_per_layer_input is {shown(vocab)}, not that of the model"
            )
        eps = config.get("rms_norm_eps", 1e-6)
        activation = GEMMA_ACTIVATION.read(config.get("hidden_activation", GEMMA_ACTIVATION.default))
        part = {"name": "per_layer", "width": width, "activation": activation}
        config["lookup"] = {**part, "norm": {"name": "rmsnorm", "eps": eps}}
    return config


def per_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Back."""
    config = dict(config)
    part = config.pop("lookup")
    config["hidden_size_per_layer_input"] = part.get("width", 0)
    return {**gemma4_back(config), "vocab_size_per_layer_input": config["vocab_size"]}


def keys_axis() -> Axis:
    """Window of a layer, and whether its keys are of another."""
    windows = listed_axis("layer_types", {LOCAL_WORD: "local", GLOBAL_WORD: "global"}, local_or_global)
    keys = listed_axis("keys", {"own": "own", "shared": "shared"}, lambda layer: "")

    def kind(layer: dict[str, Any]) -> str:
        word = "shared" if layer["attention"]["name"] == "shared_keys" else "own"
        return f"{local_or_global(layer)}_{word}"

    def read(config: dict[str, Any]) -> list[str]:
        return [f"{a}_{b}" for a, b in zip(windows.read(config), keys.read(config), strict=True)]

    def write(kinds: list[str]) -> dict[str, Any]:
        pairs = [kind.split("_") for kind in kinds]
        return {**windows.write([a for a, _ in pairs]), **keys.write([b for _, b in pairs])}

    return Axis((*windows.keys, *keys.keys), read, write, kind)


def repeated_back(ours: list[Tensor], shape: Any) -> Tensor:
    """The tensor that all layers have alike. Raises ExportError."""
    if not all(torch.equal(tensor, ours[0]) for tensor in ours):
        raise ExportError("gemma4_text has one projection_norm for all layers, and here they differ")
    return ours[0]


OF_ALL_LAYERS = Change(lambda x, like, shape: [x] * len(like), repeated_back)
NORMED = {"qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "head", "scale": 1.0}
OWN = {"name": "softmax", **NORMED, "value_norm": {"name": "rmsnorm", "weight": False}}
_KINDS = [(place, keys) for place in _PLACES for keys in ("own", "shared")]


def kind_options(place: str, keys: str) -> list[Option]:
    """What layers of this kind have."""
    at, turned = f"variants.{place}_{keys}", f"rope_parameters.{_PLACES[place]}"
    options = [
        Option(f"{at}.position", turned, {}, read_rope, write_rope),
        Option(f"{at}.attention.qk_norm.eps", "rms_norm_eps", 1e-6),
    ]
    if place == "local":
        options += [
            Option(f"{at}.attention.kv_heads", "num_key_value_heads", 4),
            Option(f"{at}.attention.window", "sliding_window", 512),
        ]
    else:
        options += [
            Option(f"{at}.attention.kv_heads", "global_heads", 4),
            Option(f"{at}.attention.head_width", "global_width", 512),
            Option(f"{at}.position.head_width", "global_width", 512),
        ]
    if keys == "shared":
        return [
            *options,
            Option(f"{at}.attention.source", f"{place}_source", 0),
            Option(f"{at}.ffn.width", "shared_width", None),
            Option(f"{at}.attention.bias", "attention_bias", False, *flag("q", "out")),
        ]
    options.append(Option(f"{at}.attention.value_norm.eps", "rms_norm_eps", 1e-6))
    if place == "local":
        return [
            *options,
            Option(f"{at}.attention.bias", "attention_bias", False, *flag("q", "k", "v", "out")),
        ]
    return [
        *options,
        Option(f"{at}.attention.shared_values", "attention_k_eq_v", False),
        Option(f"{at}.attention.bias", "global_bias", (), read=list, write=tuple),
    ]


def biases(config: dict[str, Any]) -> dict[str, Any]:
    """Of layers that see all: no bias of values where there is no projection of them."""
    biased, alike = config.get("attention_bias", False), config.get("attention_k_eq_v", False)
    named = ["q", "k", *([] if alike else ["v"]), "out"] if biased else []
    return {**config, "global_bias": named}


def without_biases(config: dict[str, Any]) -> dict[str, Any]:
    """Back: one flag says all."""
    named = config.get("global_bias", ())
    return {"attention_bias": bool(named), **{k: v for k, v in config.items() if k != "global_bias"}}


LOOKUP = "after.{l}.lookup"
GEMMA4_UNIFIED = kin(
    "gemma4_unified_text",
    "Gemma4UnifiedForCausalLM",
    always={
        **ALWAYS,
        "placement": "sandwich",
        "position": {"name": "rope"},
        "embedding": {"scale": "sqrt_width"},
        "stream": {"name": "layer_gain"},
        "variants": {
            f"{place}_{keys}": {
                "position": {"name": "rope"},
                "attention": OWN if keys == "own" else {"name": "shared_keys", **NORMED},
            }
            for place, keys in _KINDS
        },
    },
    options=[
        *(*size_options(), Option("head_width", "head_dim", 256), EPS, TIED, GEMMA_ACTIVATION),
        Option("ffn.width", "intermediate_size"),
        Option("head.softcap", "final_logit_softcapping", None),
        *(option for place, keys in _KINDS for option in kind_options(place, keys)),
    ],
    rows=[
        *(*ENDS, *ATTENTION, *QK_NORMS, *FEED_FORWARD),
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_attention_layernorm",
            ffn_input_norm="pre_feedforward_layernorm",
            ffn_output_norm="post_feedforward_layernorm",
        ),
        Row(
            ("layers.{m}.attention_residual.connection.gain.gain",),
            f"{THEIRS}.layer_scalar",
            SAME,
        ),
        Row(("exit.gain",), "model.layers.{last}.layer_scalar", SAME),
    ],
    axes=(keys_axis(),),
    unpack=lambda config: biases(gemma4({"head_dim": 256, **config})),
    pack=lambda config: gemma4_back(without_biases(config)),
    must={"use_bidirectional_attention": ("vision", None)},
)
GEMMA4 = kin(
    "gemma4_text",
    "Gemma4ForCausalLM",
    GEMMA4_UNIFIED,
    options=[*GEMMA4_UNIFIED.options, Option("lookup", "lookup", {})],
    rows=[
        *GEMMA4_UNIFIED.rows,
        Row((f"{LOOKUP}.table.weight",), "model.embed_tokens_per_layer.weight", SIDE_BY_SIDE),
        Row((f"{LOOKUP}.projection.weight",), "model.per_layer_model_projection.weight", STACKED),
        Row((f"{LOOKUP}.projection_norm.weight",), "model.per_layer_projection_norm.weight", OF_ALL_LAYERS),
        *linear_rows("after.{n}.lookup.gate", f"{THEIRS}.per_layer_input_gate"),
        *linear_rows("after.{n}.lookup.out", f"{THEIRS}.per_layer_projection"),
        *linear_rows("after.{n}.lookup.norm", f"{THEIRS}.post_per_layer_input_norm"),
    ],
    unpack=lambda config: biases(with_lookups({"head_dim": 256, **config})),
    pack=lambda config: per_layer(without_biases(config)),
    must={"use_bidirectional_attention": (None, "vision"), "enable_moe_block": (False,)},
    harmless=("num_experts", "top_k_experts", "moe_intermediate_size"),
)
GEMMA4_FAMILIES: tuple[Family, ...] = (GEMMA4, GEMMA4_UNIFIED)
