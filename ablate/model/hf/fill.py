"""A model with the biases and weights that a family cannot leave out: zeros, and ones for norms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import Family
from ablate.model.measure import blueprint
from ablate.spec import ModelSpec

_PARTS = ("attention", "ffn")


def filled(spec: ModelSpec, family: Family) -> ModelSpec:
    """The specification with every bias that the family always has; itself where it lacks none.

    Zeros in the places of the new biases, and ones in those of new norm weights, make it the same function.
    """
    tree = spec.model_dump(mode="json")
    for layer in (tree, *tree["variants"].values()):
        for part in _PARTS:
            always = family.always.get(part, {})
            if layer[part]["name"] == always.get("name"):
                _widen(layer[part], always, _flagged(family, f"{part}.bias", layer[part]))
        _affine(layer["norm"], family.always.get("norm", {}))
    if family.always.get("head", {}).get("bias"):
        tree["head"]["bias"] = True
    wider = ModelSpec.model_validate(tree)
    return spec if wider == spec else wider


def fill(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The state with zeros for the biases that the specification has beyond it, and ones for norm weights."""
    whole = dict(state)
    like = next(iter(state.values()))
    for name, tensor in blueprint(spec).state_dict().items():
        if name not in whole:
            make = torch.zeros if name.endswith("bias") else torch.ones
            whole[name] = make(tensor.shape, dtype=like.dtype, device=like.device)
    return whole


def _widen(part: dict[str, Any], always: Mapping[str, Any], flagged: list[str]) -> None:
    wanted = {*always.get("bias", ()), *flagged}
    if "bias" in part and isinstance(part["bias"], list) and set(part["bias"]) < wanted:
        part["bias"] = sorted(wanted)


def _flagged(family: Family, path: str, part: Mapping[str, Any]) -> list[str]:
    """All biases of one flag, where the model has some of them."""
    wholes: list[list[str]] = [option.read(True) for option in family.options if option.ours == path]
    return wholes[0] if wholes and part.get("bias") else []


def _affine(norm: dict[str, Any], always: Mapping[str, Any]) -> None:
    """A layer norm without weight or bias, in a family whose norms have them."""
    if norm["name"] == always.get("name") == "layernorm":
        norm.update({key: True for key in ("weight", "bias") if always.get(key, True)})
