"""What the pattern of a model's layers says, before its parts are parsed."""

import re
from collections.abc import Mapping
from typing import Any

from ablate.registry import registries

REPEATED = re.compile(r"\s*(\S+)\s+x\s?([1-9]\d{0,4})\s*")


def names_repeated(pattern: Any) -> Any:
    """`[dense x1, sparse x47]` with each name as often as it says; what is no list of names is left."""
    if not isinstance(pattern, list | tuple):
        return pattern
    names: list[Any] = []
    for name in pattern:
        found = REPEATED.fullmatch(name) if isinstance(name, str) else None
        names += [found[1]] * int(found[2]) if found else [name]
    return names


def mixers_named(node: Mapping[str, Any]) -> dict[str, Any]:
    """The variants that a pattern means by the names of token mixers: a mixer that takes no position gets
    none, unless all layers share one at the input."""
    pattern, said = node.get("pattern", ()), node.get("variants", {})
    names = [name for name in pattern if isinstance(name, str)] if isinstance(pattern, list | tuple) else []
    found: dict[str, Any] = {}
    for name in names:
        if name in said or name not in registries["attention"]:
            continue
        found[name] = {"attention": {"name": name}}
        if not getattr(registries["attention"][name].make, "takes_position", True) and not _at_input(node):
            found[name]["position"] = {"name": "none"}
    return found


def _at_input(node: Mapping[str, Any]) -> bool:
    """Whether the common position acts on the embedding."""
    scheme = node.get("position")
    name = scheme.get("name") if isinstance(scheme, Mapping) else getattr(scheme, "name", scheme)
    made: Any = registries["position"][str(name)].make if name in registries["position"] else None
    return bool(made and made.acts_on_embedding)
