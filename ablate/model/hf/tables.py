"""What the tables of many families share: axes of layers, rows of experts, and changes of tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Axis,
    Change,
    CheckpointFormatError,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import LAYER, MOST_LAYERS, THEIRS
from ablate.model.hf.rotation import gather
from ablate.model.hf.rotation import read as read_rope
from ablate.model.hf.rotation import write as write_rope
from ablate.model.hf.words import read_activation, write_activation

LESS_ONE = Change(lambda x, like, shape: [x + 1], lambda ours, shape: ours[0] - 1)  # norms stored less 1
SIDE_BY_SIDE = Change(  # matrices joined by their columns, as the last of several MLPs are
    lambda x, like, shape: list(x.split([size[1] for size in like], 1)),
    lambda ours, shape: torch.cat(ours, 1),
)
FLAT = Change(lambda x, like, shape: [x.flatten()], lambda ours, shape: ours[0][None])
PAIRED = Change(  # of each head, first its query and then its gate
    lambda x, like, shape: [
        part.flatten(0, 1) for part in x.unflatten(0, (-1, 2, shape.head_width)).unbind(1)
    ],
    lambda ours, shape: torch.stack([x.unflatten(0, (-1, shape.head_width)) for x in ours], 1).flatten(0, 2),
)
OF_EXPERTS = Change(  # (E, in, out): the matrices of all experts
    lambda x, like, shape: [part.t() for part in x.unbind()],
    lambda ours, shape: torch.stack([part.t() for part in ours]),
)
ONE_EACH = Change(  # (E, ...): one tensor for each expert
    lambda x, like, shape: list(x.unbind()), lambda ours, shape: torch.stack(ours)
)
GATES_UPS = Change(  # (E, 2 F, C): of each expert the rows of its gate, then those of its up
    lambda x, like, shape: [part for half in x.chunk(2, 1) for part in half.unbind()],
    lambda ours, shape: torch.cat([torch.stack(half) for half in halves(ours)], 1),
)
STACKED_EXPERTS = [  # (E, 2 F, C) and (E, C, F)
    Row(
        tuple(f"{LAYER}.ffn.experts.{{e}}.{name}.weight" for name in ("gate", "up")),
        f"{THEIRS}.mlp.experts.gate_up_proj",
        GATES_UPS,
    ),
    Row((f"{LAYER}.ffn.experts.{{e}}.down.weight",), f"{THEIRS}.mlp.experts.down_proj", ONE_EACH),
]


def halves(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The first half of a list and the second."""
    middle = len(tensors) // 2
    return tensors[:middle], tensors[middle:]


# ------------------------------------------------------------------------------------------ layers


def depth_of(config: dict[str, Any], key: str = "num_hidden_layers") -> int:
    """The number of layers. Raises CheckpointFormatError."""
    depth = config.get(key, config.get("num_layers"))
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= MOST_LAYERS:
        raise CheckpointFormatError(
            f"{key} is {shown(depth)}, and should be a whole number up to {MOST_LAYERS}"
        )
    return depth


def whole_number(config: dict[str, Any], key: str, default: int) -> int:
    """A whole number, 0 or more, that layers are worked out from. Raises CheckpointFormatError."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_LAYERS:
        raise CheckpointFormatError(
            f"{key} is {shown(value)}, and should be a whole number up to {MOST_LAYERS}"
        )
    return value


def listed_axis(
    key: str,
    kinds: dict[Any, str],
    kind: Callable[[dict[str, Any]], str],
    default: Callable[[int, dict[str, Any]], str] | None = None,
    also: tuple[str, ...] = (),
) -> Axis:
    """An axis that a list of their config says, one word a layer: `kinds` says which word is which of ours.
    `default` gives the word of a layer where the list is null, and `also` names the keys that it looks at."""

    def read(config: dict[str, Any]) -> list[str]:
        words, depth = config.get(key), depth_of(config)
        if words is None and default is not None:
            words = [default(n, config) for n in range(depth)]
        if not isinstance(words, list) or any(type(w) not in (str, int) or w not in kinds for w in words):
            raise CheckpointFormatError(
                f"{key} is {shown(words)}, and should be a list of {' and '.join(map(str, kinds))}"
            )
        if len(words) != depth:
            raise CheckpointFormatError(f"{key} names {len(words)} layers, num_hidden_layers {depth}")
        return [kinds[word] for word in words]

    back = {ours: theirs for theirs, ours in reversed(list(kinds.items()))}
    return Axis((key, *also), read, lambda found: {key: [back.get(k, k) for k in found]}, kind)


def all_full(config: dict[str, Any]) -> dict[str, Any]:
    """Without `layer_types`, where each layer sees all. Raises CheckpointFormatError for another."""
    config = dict(config)
    words, depth = config.pop("layer_types", None), depth_of(config)
    if words is not None and words != ["full_attention"] * depth:
        raise CheckpointFormatError(f"layer_types is {shown(words)}; only full_attention can be expressed")
    return config


def local_or_global(layer: dict[str, Any]) -> str:
    """The kind of a layer by its window."""
    return "local" if layer["attention"].get("window") else "global"


def sparse_or_dense(layer: dict[str, Any]) -> str:
    """The kind of a layer by its experts."""
    return "sparse" if layer["ffn"]["name"] == "moe" else "dense"


def windowed(default: Callable[[int, dict[str, Any]], str] | None = None, also: tuple[str, ...] = ()) -> Axis:
    """`layer_types` of layers with a window and layers that see all."""
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    return listed_axis("layer_types", kinds, local_or_global, default, also)


def every(period: int, key: str = "") -> Callable[[int, dict[str, Any]], str]:
    """Each so-manieth layer sees all, where a config does not say which. `key` is that of another period."""

    def word(n: int, config: dict[str, Any]) -> str:
        said = whole_number(config, key, period) if key else period
        if said < 1:
            raise CheckpointFormatError(f"{key} is {said}, and should be 1 or more")
        return "full_attention" if (n + 1) % said == 0 else "sliding_attention"

    return word


def windowed_by(key: str, period: int) -> Axis:
    """`layer_types`, or what `key` says in its place: each so-manieth layer sees all."""
    return windowed(every(period, key), (key,))


def first_dense(key: str = "first_k_dense_replace", default: int = 0) -> Axis:
    """So many dense layers, then sparse ones."""

    def read(config: dict[str, Any]) -> list[str]:
        dense, depth = whole_number(config, key, default), depth_of(config)
        return ["dense" if n < dense else "sparse" for n in range(depth)]

    def write(kinds: list[str]) -> dict[str, Any]:
        return {key: [*kinds, "sparse"].index("sparse")}

    return Axis((key,), read, write, sparse_or_dense)


def sparse_steps(config: dict[str, Any]) -> list[str]:
    """`mlp_only_layers` and `decoder_sparse_step` of Qwen's mixtures."""
    only, step = config.get("mlp_only_layers") or [], whole_number(config, "decoder_sparse_step", 1)
    if not isinstance(only, list) or not all(isinstance(n, int) for n in only) or step < 1:
        raise CheckpointFormatError(f"mlp_only_layers is {shown(only)}, and should be a list of numbers")
    return ["sparse" if n not in only and (n + 1) % step == 0 else "dense" for n in range(depth_of(config))]


SPARSE_STEPS = Axis(
    ("mlp_only_layers", "decoder_sparse_step"),
    sparse_steps,
    lambda kinds: {
        "mlp_only_layers": [n for n, kind in enumerate(kinds) if kind == "dense"],
        "decoder_sparse_step": 1,
    },
    sparse_or_dense,
)
SPARSE_LISTED = listed_axis("mlp_layer_types", {"dense": "dense", "sparse": "sparse"}, sparse_or_dense)


# ----------------------------------------------------------------------------------------- options


def size_options(**names: str) -> list[Option]:
    """The options of size, each by the name that the family has for it."""
    usual = {
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
    }
    return [Option(ours, names.get(ours, theirs)) for ours, theirs in usual.items()]


KV_HEADS = Option("attention.kv_heads", "num_key_value_heads", None)
ROPE = Option("position", "rope_parameters", read=read_rope, write=write_rope)


def interleaved_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """RoPE of neighbouring channels."""
    return {**read_rope(parameters), "interleaved": True}


INTERLEAVED = Option("position", "rope_parameters", read=interleaved_rope, write=write_rope)


def activation_option(ours: str = "ffn", theirs: str = "hidden_act", default: str = "silu") -> Option:
    """Which activation the part at this path has."""
    return Option(f"{ours}.activation", theirs, default, read_activation, write_activation)


def ropes_by_type(
    thetas: dict[str, float], fraction: float = 1.0
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """`rope_parameters` that hold one object for each word of `layer_types`: to keys of their own, such as
    `rope_parameters.full_attention`, and back. `thetas` are the family's own."""

    def unpack(config: dict[str, Any]) -> dict[str, Any]:
        config = dict(config)
        both = config.pop("rope_parameters", None) or {}
        if not isinstance(both, dict) or not all(isinstance(v, dict) for v in both.values()):
            raise CheckpointFormatError(f"rope_parameters is {shown(both)}, and should hold an object a kind")
        if unknown := sorted(set(both) - set(thetas)):
            raise CheckpointFormatError(f"rope_parameters names {', '.join(unknown)}")
        for word, theta in thetas.items():
            said = {
                "rope_parameters": both.get(word),
                "max_position_embeddings": config.get("max_position_embeddings"),
            }
            config[f"rope_parameters.{word}"] = gather(said, theta, fraction)["rope_parameters"]
        return config

    def pack(config: dict[str, Any]) -> dict[str, Any]:
        named = {word: config[f"rope_parameters.{word}"] for word in thetas}
        rest = {key: value for key, value in config.items() if not key.startswith("rope_parameters.")}
        return {**rest, "rope_parameters": named}

    return unpack, pack


# -------------------------------------------------------------------------------------------- rows


def layer_rows(slots: dict[str, str], leaves: Sequence[str] = ("weight", "bias")) -> list[Row]:
    """Ours in a layer to theirs: `attention.q` to `self_attn.q_proj`."""
    return [
        Row((f"{LAYER}.{ours}.{leaf}",), f"{THEIRS}.{theirs}.{leaf}", SAME)
        for ours, theirs in slots.items()
        for leaf in leaves
    ]


def expert_rows(
    experts: str = "mlp.experts",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    router: str = "mlp.gate",
    shared: str | None = None,
    bias: str | None = None,
    layer: str = THEIRS,
) -> list[Row]:
    """Router, experts one by one, shared experts as one wide MLP, and the bias on the selection."""
    rows = linear_rows(f"{LAYER}.ffn.router", f"{layer}.{router}")
    for ours, theirs in zip(("gate", "up", "down"), names, strict=True):
        rows += linear_rows(f"{LAYER}.ffn.experts.{{e}}.{ours}", f"{layer}.{experts}.{{e}}.{theirs}")
        if shared is not None:
            change = SIDE_BY_SIDE if ours == "down" else STACKED
            theirs = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}[ours]
            name = f"{LAYER}.ffn.shared.{{s}}.{ours}.weight"
            rows.append(Row((name,), f"{layer}.{shared}.{theirs}.weight", change))
    if bias is not None:
        rows.append(Row((f"{LAYER}.ffn.bias",), f"{layer}.{bias}", SAME))
    return rows


def interleaved(parts: int) -> Change:
    """Rows of several matrices in turns."""
    return Change(
        lambda x, like, shape: list(x.unflatten(0, (-1, parts)).unbind(1)),
        lambda ours, shape: torch.stack(list(ours), 1).flatten(0, 1),
    )


def plus(number: Tensor | float) -> Change:
    """Stored less a number."""
    return Change(lambda x, like, shape: [x + number], lambda ours, shape: ours[0] - number)
