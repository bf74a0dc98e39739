"""Dots 3 Note: latent attention of three kinds, each with its own heads and ranks."""

from typing import Any

from ablate.model.hf.family import SAME, Change, CheckpointFormatError, Family, Option, Row, shown
from ablate.model.hf.latent import MLA_ROWS, SELF, query_row
from ablate.model.hf.llama import ALWAYS, ENDS, EPS, LAYER, PRE, UNTIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import GATED_MLP, JITTER, SPARSE, dense_and_sparse, moe
from ablate.model.hf.own_mixtures import SPARSE_WORDS, sparse_after
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK, DEEPSEEK_ROWS, deepseek_experts
from ablate.model.hf.sparse_latent import DSA, INDEX_ROWS
from ablate.model.hf.tables import (
    activation_option,
    depth_of,
    interleaved_rope,
    listed_axis,
    ropes_by_type,
    size_options,
    sparse_or_dense,
)

_INDEXED, _WHOLE, _LOCAL = "indexed_attention", "full_attention", "sliding_attention"
_KINDS = {_INDEXED: "indexed", _WHOLE: "whole", _LOCAL: "local"}
_THETAS = {_INDEXED: 8e7, _WHOLE: 8e7, _LOCAL: 5e4}
_HEADS, _KV_HEADS, _TURNED_WIDTH = "num_attention_heads", "num_key_value_heads", "qk_rope_head_dim"
_SIZES = {  # what layers may differ in; where a config is silent: of all layers, of local ones
    _HEADS: (128, 64),
    _KV_HEADS: (128, 64),
    "q_lora_rank": (1024, 1024),
    "kv_lora_rank": (512, 1024),
    "qk_nope_head_dim": (128, 192),
    "v_head_dim": (128, 128),
    _TURNED_WIDTH: (64, 64),
    "head_dim": (256, 256),
}
_OURS = {_HEADS: "heads", "q_lora_rank": "q_rank", "kv_lora_rank": "kv_rank"}
_OURS |= {"qk_nope_head_dim": "key_width", "v_head_dim": "value_width"}


def _kind_of(layer: dict[str, Any]) -> str:
    """The kind of a canonical layer."""
    attention = layer["attention"]
    if attention["name"] == "dsa":
        return "indexed"
    return "local" if attention.get("window") else "whole"


def _two_then_each_fourth(n: int, config: dict[str, Any]) -> str:
    """Which layers see all, where a config does not say."""
    return _INDEXED if n < 2 or n % 4 == 1 else _LOCAL


def _by_kind(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of each kind of layer under keys of their own, as `local.kv_lora_rank`; RoPE likewise."""
    config = deepseek_experts(config)
    config["layer_types"] = _list_of_types(config)
    of_layers = _sizes_of_layers(config)
    whole = {key: config.pop(key, usual) for key, (usual, _) in _SIZES.items()}
    widths = {sizes[_TURNED_WIDTH] for sizes in of_layers.values()}
    if len(widths) > 1:
        raise CheckpointFormatError(
            f"{_TURNED_WIDTH} is {shown(sorted(widths))} in several layers; here all turn as many channels"
        )
    for word, kind in _KINDS.items():
        sizes = of_layers.get(word, whole)
        if sizes[_KV_HEADS] not in (None, sizes[_HEADS]):
            raise CheckpointFormatError(f"{_KV_HEADS} is {shown(sizes[_KV_HEADS])}, not {_HEADS}")
        if word in of_layers and sizes["q_lora_rank"] is None:
            raise CheckpointFormatError("q_lora_rank is null, and this family always compresses queries")
        config |= {f"{kind}.{key}": sizes[key] for key in _OURS}
    config |= {_HEADS: whole[_HEADS], _TURNED_WIDTH: widths.pop()}
    biased = config.pop("attention_bias", False)
    if not isinstance(biased, bool):
        raise CheckpointFormatError(f"attention_bias is {shown(biased)}, and should be true or false")
    config["biases"] = ["q", "kv", "out"] if biased else []
    return _ropes(config)


def _list_of_types(config: dict[str, Any]) -> list[str]:
    """`layer_types`, spelled out. Without `per_layer_config`, layers that see all have an indexer."""
    words = config.get("layer_types")
    indexing = config.pop("use_dsa", None if "per_layer_config" in config else True)
    if indexing not in (None, True):
        raise CheckpointFormatError(
            f"use_dsa is {shown(indexing)}; layer_types says which layers choose keys"
        )
    if indexing and isinstance(words, list):
        words = [_INDEXED if word == _WHOLE else word for word in words]
    if words is None:
        words = [_two_then_each_fourth(n, config) for n in range(depth_of(config))]
    if not isinstance(words, list) or len(words) != depth_of(config) or any(w not in _THETAS for w in words):
        raise CheckpointFormatError(
            f"layer_types is {shown(words)}, and should name a kind for each layer: {', '.join(_THETAS)}"
        )
    return words


def _sizes_of_layers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sizes of the layers of each word, taken out of `per_layer_config`. Raises CheckpointFormatError."""
    words: list[str] = config["layer_types"]
    usual = {key: number for key, (_, number) in _SIZES.items()}
    said = config.pop("per_layer_config", {str(n): usual for n, word in enumerate(words) if word == _LOCAL})
    if not isinstance(said, dict) or not all(isinstance(sizes, dict) for sizes in said.values()):
        raise CheckpointFormatError(f"per_layer_config is {shown(said)}, and should hold an object a layer")
    if unknown := {key for sizes in said.values() for key in sizes} - set(_SIZES):
        raise CheckpointFormatError(
            f"per_layer_config: no layer here has its own {', '.join(sorted(unknown))}"
        )
    if unknown := set(said) - {str(n) for n in range(len(words))}:
        raise CheckpointFormatError(f"per_layer_config names layers {shown(sorted(unknown))}")
    whole = {key: config.get(key, number) for key, (number, _) in _SIZES.items()}
    found: dict[str, dict[str, Any]] = {}
    for n, word in enumerate(words):
        sizes = {**whole, **said.get(str(n), {})}
        for key, value in sizes.items():
            if value is not None and type(value) is not int:
                raise CheckpointFormatError(
                    f"layer {n}: {key} is {shown(value)}, and should be a whole number"
                )
        if found.setdefault(word, sizes) != sizes:
            raise CheckpointFormatError(f"layer {n}: its sizes are not those of the other layers of {word}")
    return found


def _ropes(config: dict[str, Any]) -> dict[str, Any]:
    """One object for each kind of layer; how much of a head turns is worked out from its sizes."""
    said = config.pop("rope_parameters", None)
    both = {} if said is None else said
    if not isinstance(both, dict):
        raise CheckpointFormatError(f"rope_parameters is {shown(both)}, and should be an object")
    if said is not None and not any(word in both for word in _THETAS):
        both = dict.fromkeys(config["layer_types"], both)
    if lacking := set(config["layer_types"]) - set(both) if both else set():
        raise CheckpointFormatError(f"rope_parameters has nothing for {', '.join(sorted(lacking))}")
    bare = {
        word: {key: value for key, value in rope.items() if key != "partial_rotary_factor"}
        if isinstance(rope, dict)
        else rope
        for word, rope in both.items()
    }
    thetas = _THETAS if said is None else dict.fromkeys(_THETAS, _THETAS[_WHOLE])  # where one is not said
    return ropes_by_type(thetas)[0]({**config, "rope_parameters": bare})


def _by_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the sizes of each layer, those of the model and of what each layer turns."""
    words: list[str] = config["layer_types"]
    turned = config[_TURNED_WIDTH]
    of_words = {}
    for word in dict.fromkeys(words):
        sizes = {key: config[f"{_KINDS[word]}.{key}"] for key in _OURS}
        of_words[word] = {
            **sizes,
            _KV_HEADS: sizes[_HEADS],
            _TURNED_WIDTH: turned,
            "head_dim": sizes["qk_nope_head_dim"] + turned,
        }
    rope = {word: config[f"rope_parameters.{word}"] for word in of_words}
    first = next(iter(of_words.values()))
    rest = {key: v for key, v in config.items() if "." not in key and key not in ("biases", *_SIZES)}
    return {
        **rest,
        **first,
        "attention_bias": bool(config["biases"]),
        "per_layer_config": {str(n): of_words[w] for n, w in enumerate(words) if of_words[w] != first},
        "rope_parameters": {
            word: {**rope[word], "partial_rotary_factor": turned / sizes["head_dim"]}
            for word, sizes in of_words.items()
        },
    }


def _scaled_norm(ours: str, theirs: str) -> Row:
    """The norm of a compressed vector, which they multiply by sqrt(width / rank) afterwards."""
    return Row(
        (f"{LAYER}.attention.{ours}.weight",),
        f"{SELF}.{theirs}.weight",
        Change(
            lambda x, like, shape: [x * (shape.width / len(x)) ** 0.5],
            lambda ours, shape: ours[0] / (shape.width / len(ours[0])) ** 0.5,
        ),
    )


_NORM = {"name": "rmsnorm"}
_OWN = {"norm": _NORM, "turned_norm": _NORM, "gate": "head"}
_INTERLEAVED_ROPE = {"name": "rope", "rotary_fraction": 1.0, "interleaved": True}
_DOTS3_NOTE = kin(
    "dots3_note_text",
    "Dots3NoteForCausalLM",
    always={
        **ALWAYS,
        "variants": {
            "indexed": {"position": _INTERLEAVED_ROPE, "attention": {**DSA, **_OWN}},
            "whole": {"position": _INTERLEAVED_ROPE, "attention": {"name": "mla", **_OWN}},
            "local": {"position": _INTERLEAVED_ROPE, "attention": {"name": "mla", **_OWN}},
            **dense_and_sparse(moe("sigmoid", shared_expert=GATED_MLP)),
        },
    },
    options=[
        *(*size_options(), EPS._replace(default=1e-5), UNTIED, *BY_DEEPSEEK),
        Option("head_width", _TURNED_WIDTH),
        *(
            Option(f"variants.{kind}.attention.{ours}", f"{kind}.{theirs}")
            for kind in _KINDS.values()
            for theirs, ours in _OURS.items()
        ),
        *(
            Option(f"variants.{kind}.attention.{norm}.eps", "rms_norm_eps", 1e-5)
            for kind in _KINDS.values()
            for norm in ("norm", "turned_norm")
        ),
        *(Option(f"variants.{kind}.attention.bias", "biases", ()) for kind in _KINDS.values()),
        *(
            Option(f"variants.{kind}.position", f"rope_parameters.{word}", {}, interleaved_rope, write_rope)
            for word, kind in _KINDS.items()
        ),
        Option("variants.indexed.attention.top_k", "index_topk", 2048),
        Option("variants.indexed.attention.index_width", "index_head_dim", 128),
        Option("variants.indexed.attention.index_heads", "index_n_heads", 64),
        Option("variants.local.attention.window", "sliding_window", 512, lambda w: 512 if w is None else w),
        Option(f"{SPARSE}.shared_expert.width", "shared_experts_intermediate_size", 1536),
        activation_option(f"{SPARSE}.shared_expert"),
    ],
    rows=[
        *(*ENDS, *PRE, query_row("q_b_proj"), *DEEPSEEK_ROWS, *INDEX_ROWS),
        *(row for row in MLA_ROWS if "layernorm" not in row.theirs),
        _scaled_norm("q_norm", "q_a_layernorm"),
        _scaled_norm("kv_norm", "kv_a_layernorm"),
        Row((f"{LAYER}.attention.turned_norm.weight",), f"{SELF}.k_rope_only_layernorm.weight", SAME),
        Row((f"{LAYER}.attention.gate.weight",), f"{SELF}.g_proj.weight", SAME),
    ],
    axes=(
        listed_axis("layer_types", _KINDS, _kind_of),
        listed_axis("mlp_layer_types", SPARSE_WORDS, sparse_or_dense, sparse_after),
    ),
    unpack=_by_kind,
    pack=_by_layer,
    must={"mlp_bias": (False,)},
    harmless=(*JITTER, "first_k_dense_replace", "moe_layer_freq"),
)
DOTS3_FAMILIES: tuple[Family, ...] = (_DOTS3_NOTE,)
