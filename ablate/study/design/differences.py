"""Where two specifications differ, by dotted path.

Patterns over the depth are read as what they mean: a path below a layer has one value if all layers agree,
else the tuple of its values along the pattern. So an arm with a window in some layers differs from one
without in `model.attention.window`, however it is written down.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ablate.spec import LayerSpec, Strict
from ablate.study.design.study import under

ABSENT = "(absent)"  # shown where one side lacks the path

Reason = Literal["axis", "matched", "tuned", "placebo", "undeclared"]


class Difference(Strict):
    """One path at which an arm differs from the baseline, and what allows it."""

    path: str
    baseline: Any
    arm: Any
    reason: Reason

    def __str__(self) -> str:
        return f"{self.path}: {self.baseline!r} -> {self.arm!r}"


def flatten(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value; the layers folded into the common one."""
    flat: dict[str, Any] = {}
    walk("", spec, flat)
    model = spec.get("model")
    if not isinstance(model, Mapping):
        return flat
    pattern = model.get("pattern") or ()
    folded = ("pattern", "variants", *(LayerSpec.model_fields if pattern else ()))
    places = [f"model.{field}" for field in folded]
    rest = {path: value for path, value in flat.items() if not any(under(path, place) for place in places)}
    return rest | _fold([model["variants"][name] for name in pattern])


def _fold(layers: list[Mapping[str, Any]]) -> dict[str, Any]:
    flats: list[dict[str, Any]] = []
    for layer in layers:
        flats.append({})
        walk("model", layer, flats[-1])
    folded: dict[str, Any] = {}
    for path in dict.fromkeys(path for flat in flats for path in flat):
        values = [flat.get(path) for flat in flats]
        folded[path] = values[0] if all(value == values[0] for value in values) else tuple(values)
    return folded


def walk(path: str, node: Any, into: dict[str, Any]) -> None:
    """Dotted path -> value, from a node that stands at `path`."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            walk(f"{path}.{key}" if path else str(key), value, into)
    else:
        into[path] = node


def spec_differences(
    baseline: Mapping[str, Any],
    arm: Mapping[str, Any],
    axis: Iterable[str] = (),
    matched: Iterable[str] = (),
    tuned: Iterable[str] = (),
) -> list[Difference]:
    """All differences of two specifications, in the order of the paths, each with what allows it."""
    allowed: list[tuple[Reason, list[str]]] = [
        ("tuned", list(tuned)),
        ("matched", list(matched)),
        ("axis", list(axis)),
    ]
    ours, theirs = flatten(baseline), flatten(arm)
    differing = []
    for path in sorted({*ours, *theirs}):
        if path in ours and path in theirs and ours[path] == theirs[path]:
            continue
        reason: Reason = "undeclared"
        for word, places in allowed:
            if any(under(path, place) for place in places):
                reason = word
                break
        differing.append(
            Difference(
                path=path, baseline=ours.get(path, ABSENT), arm=theirs.get(path, ABSENT), reason=reason
            )
        )
    return differing


def fetch(spec: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path. Raises KeyError that names the path and what there is."""
    node: Any = spec
    walked: list[str] = []
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            there = ", ".join(node) if isinstance(node, Mapping) else "nothing"
            raise KeyError(f"{path}: {'.'.join(walked) or 'the run'} has no {key!r}; it has {there}")
        node = node[key]
        walked.append(key)
    return node


def with_value(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the path has another value; what is not on the path is shared. Raises KeyError where
    there is no such path."""
    fetch(spec, path)
    return _put(spec, path.split("."), value)


def _put(node: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    return {**node, first: _put(node[first], rest, value) if rest else value}
