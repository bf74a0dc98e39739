"""A model as its mathematics: every option with its value, and nothing that only training or speed sees.

Two models with the same canonical form compute the same function of their weights.
"""

import math
from typing import Any

from ablate.parts.ffn.width import hidden_width
from ablate.spec import ModelSpec, Shape

_TRAINING = ("dropout", "balance_loss_weight", "router_z_loss_weight", "capacity_factor", "bias_update_rate")


def canonical(spec: ModelSpec) -> dict[str, Any]:
    """Options as plain values, layer by layer."""
    shape = spec.shape()
    whole = spec.model_dump(mode="json")
    scale = whole["embedding"]["scale"]
    return {
        "width": shape.width,
        "depth": shape.depth,
        "heads": shape.heads,
        "head_width": shape.head_width,
        "context": shape.context,
        "vocab": shape.vocab,
        "embedding": {
            "scale": shape.width**0.5 if scale == "sqrt_width" else scale,
            "norm": whole["embedding"]["norm"],
            "lookup": whole["embedding"]["lookup"],
        },
        "stream": whole["stream"],
        "loop": whole["loop"],
        "final_norm": whole["norm"],
        "head": {key: value for key, value in whole["head"].items() if key != "z_loss"},
        "layers": [_layer(layer.model_dump(mode="json"), shape) for layer in spec.layers()],
    }


def _layer(layer: dict[str, Any], shape: Shape) -> dict[str, Any]:
    return {
        **layer,
        "attention": _attention(layer["attention"], shape),
        "ffn": _ffn(layer["ffn"], shape),
        "position": _position(layer["position"], shape),
    }


def _without_training(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in _TRAINING}


def _attention(part: dict[str, Any], shape: Shape) -> dict[str, Any]:
    part = _without_training(part)
    if part["name"] not in ("softmax", "shared_keys"):
        inside: dict[str, Any] = {
            key: _attention(part[key], shape) for key in ("first", "second") if key in part
        }
        heads = {"heads": part["heads"] or shape.heads} if "heads" in part else {}
        return {**part, **inside, **heads}
    if part["qk_norm"]["name"] == "none":
        del part["qk_norm_over"]
    width = part["head_width"] or shape.head_width
    given = {
        "kv_heads": part["kv_heads"] or shape.heads,
        "scale": part["scale"] or width**-0.5,
        "value_width": part["value_width"] or width,
        "head_width": width,
    }
    return {**part, **given, "bias": sorted(part["bias"])}


def _ffn(part: dict[str, Any], shape: Shape) -> dict[str, Any]:
    part = _without_training(part)
    if "expert" in part:
        return {**part, "expert": _ffn(part["expert"], shape)}
    if "ratio" not in part:
        return part
    rule = [part.pop(key) for key in ("width", "ratio", "multiplier", "multiple_of")]
    return {**part, "width": hidden_width(shape.width, *rule), "bias": sorted(part["bias"])}


def _position(part: dict[str, Any], shape: Shape) -> dict[str, Any]:
    if part["name"] == "rope":
        part = {**part, "head_width": part["head_width"] or shape.head_width}
    scaling = dict(part.get("scaling", {}))
    if "trained" in scaling:
        scaling["trained"] = scaling["trained"] or shape.context / scaling["factor"]
    if scaling.get("name") == "yarn":
        scaling["attention_factor"] = scaling["attention_factor"] or 0.1 * math.log(scaling["factor"]) + 1
    if scaling.get("name") == "longrope":
        usual = math.sqrt(1 + math.log(scaling["factor"]) / math.log(max(scaling["trained"], 2)))
        scaling["attention_factor"] = scaling["attention_factor"] or usual
    return {**part, "scaling": scaling} if scaling else part


def differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, value in a, value in b) for every leaf that differs; of a part of another name, the name."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.get("name") != b.get("name"):
            return [(path, a.get("name"), b.get("name"))]
        keys = sorted({*a, *b})
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{path}.{key}".strip("."))]
    if path == "layers" and a and b:
        if len(a) != len(b):
            return []  # said by `depth`
        found = [differences(x, y) for x, y in zip(a, b, strict=True)]
        return [d for n, layer in enumerate(found) for d in layer if n == 0 or d not in found[0]]
    if isinstance(a, float) and isinstance(b, float | int) and math.isclose(a, b, rel_tol=1e-9):
        return []
    return [] if a == b else [(path, a, b)]


def value_at(model: dict[str, Any], path: str) -> Any:
    """The value at a path, of the whole model or of its first layer. Raises KeyError."""
    value: Any = {**model, **model["layers"][0]}
    for step in path.split("."):
        if not isinstance(value, dict):  # an absent part has no options
            raise KeyError(path)
        value = value[step]
    return value


def place(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path; a mapping is put beside what is there."""
    *way, last = path.split(".")
    for step in way:
        tree = tree.setdefault(step, {})
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        tree[last] = {**tree[last], **value}
    else:
        tree[last] = value
