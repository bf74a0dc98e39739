"""The export hunt: models near each family, with a few options changed at random.

Every one that is taken runs in transformers with our logits; the others are refused with a line.
"""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.tiny_families import TINY
from test_export import MODELS, WINDOWS, held_to_transformers
from test_export import random as randomised
from test_hf import CONFIGS, SWIGLU

from ablate.cli.zoo_lacks import ALIASES
from ablate.model.hf import FAMILIES, ExportError, export_folder
from ablate.model.hf.config import read_config
from ablate.parts.base import IncompatibleParts
from ablate.spec import ModelSpec

Node = dict[str, Any]

GELUS: list[Any] = [{"name": "gelu", "form": form} for form in ("exact", "tanh", "sigmoid")]
CHANGES: dict[str, list[Any]] = {
    "ffn.activation": ["silu", "relu", "relu2", "sigmoid", "swish", *GELUS],
    "ffn.bias": [[], ["up"], ["up", "down"], ["gate", "up", "down"]],
    "attention.bias": [[], ["q"], ["out"], ["q", "k", "v"], ["q", "k", "v", "out"]],
    "attention.kv_heads": [None, 1, 2, 4],
    "attention.window": [None, 1, 3, 24, 100],
    "attention.softcap": [None, 1.0, 20.0],
    "attention.scale": [None, 0.1, 0.25, 12**-0.5],
    "attention.qk_norm": ["none", "layernorm", {"name": "rmsnorm", "eps": 1e-6}, {"name": "rmsnorm"}],
    "attention.qk_norm_over": ["head", "width"],
    "head.tied": [True, False],
    "head.softcap": [None, 1.0, 20.0],
    "head.bias": [True, False],
    "norm": [
        *("rmsnorm", "layernorm", {"name": "rmsnorm", "offset": True}, {"name": "rmsnorm", "eps": 1e-3}),
        *({"name": "layernorm", "bias": False}, {"name": "layernorm", "weight": False, "bias": False}),
    ],
    "embedding.scale": [1.0, 2.0, 32**0.5, "sqrt_width"],
    "placement": ["pre", "sandwich", "output", "peri"],
    "topology": ["serial", "parallel", "parallel_two_norms"],
    "position": ["rope", "alibi", "learned", {"name": "rope", "base": 100.0}],
    "position.rotary_fraction": [0.25, 0.3, 0.5, 0.75, 1.0],
    "position.scaling": [
        *({"name": "linear", "factor": 3.0}, {"name": "llama3", "trained": 9}, {"name": "yarn"}, "ntk"),
        *({"name": "yarn", "factor": 3.0, "trained": 7, "fast": 4.0, "slow": 0.5},),
        *({"name": "yarn", "factor": 1.5, "trained": 16, "attention_factor": 0.7},),
    ],
    "width": [32, 36, 40, 48],
    "head_width": [4, 6, 8, 16],
}


def near(family: str, windows: str, draw: random.Random) -> Node:
    node: Node = copy.deepcopy({"ffn": SWIGLU, "norm": "rmsnorm", "position": "rope", **MODELS[family]})
    for part in ("attention", "position"):
        default = {"name": "softmax", "kv_heads": 2} if part == "attention" else "rope"
        value = node.get(part, default)
        node[part] = {"name": value} if isinstance(value, str) else value
    extra = copy.deepcopy(WINDOWS[windows])
    node["attention"].update(extra.pop("attention", {}))
    node.update(extra)
    node.setdefault("head", {})
    node.setdefault("embedding", {"norm": "none"})
    for path in draw.choices(list(CHANGES), k=draw.choice([0, 1, 1, 2, 3])):
        *way, last = path.split(".")
        place = node
        for step in way:
            place = {"name": place[step]} if isinstance(place[step], str) else place[step]
        place[last] = copy.deepcopy(draw.choice(CHANGES[path]))
    return node


def hunt(seed: int, tries: int, tokens: torch.Tensor, folder: Path) -> tuple[int, list[str]]:
    """How many models were taken, and what went wrong with which of them."""
    from conftest import SMALL

    draw = random.Random(seed)
    taken, wrong = 0, []
    for n in range(tries):
        node = near(draw.choice(list(MODELS)), draw.choice(["none", *WINDOWS]), draw)
        try:
            decoder = randomised(ModelSpec.model_validate({**SMALL, **node}))
        except (ValidationError, IncompatibleParts):
            continue  # no model of ours
        try:
            export_folder(decoder, folder / str(n))
            taken += 1
            held_to_transformers(folder / str(n), decoder, tokens)
        except ExportError:
            continue
        except Exception as error:
            wrong.append(f"{node}: {type(error).__name__}: {error}")
    return taken, wrong


def test_every_model_that_is_taken_runs_in_transformers(tokens, tmp_path):
    taken, wrong = hunt(0, 30, tokens, tmp_path)
    assert taken > 8 and wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_every_model_that_is_taken_runs_in_transformers_wherever_one_looks(seed, tokens, tmp_path):
    taken, wrong = hunt(seed, 200, tokens, tmp_path)
    assert taken > 40 and wrong == []


# ------------------------------------------------------------------------------- windows, family by family

EVERY = {**CONFIGS, **TINY}
WINDOW_OF_LAYER = {  # of the layer at each depth
    "none": lambda n: None,
    "all": lambda n: 5,
    "alternating": lambda n: 5 if n % 2 == 0 else None,
}
QUICK = ("gpt2", "qwen3", "gemma3_text", "jamba")


def test_every_family_is_exported():
    assert {ALIASES.get(kind, kind) for kind, _ in EVERY.values()} == set(FAMILIES)


def family_and_spec(name: str) -> tuple[str, ModelSpec]:
    """The model of a tiny config of transformers."""
    from transformers import AutoConfig

    kind, options = EVERY[name]
    config = json.loads(AutoConfig.for_model(kind, **options).to_json_string(use_diff=False))
    config = config.get("text_config", config) | {"model_type": ALIASES.get(kind, kind)}
    family = ALIASES.get(kind, kind)
    return family, read_config(config, FAMILIES[family])


def windowed(spec: ModelSpec, windows: str) -> ModelSpec:
    """The model, each layer that has a window given that of its depth."""
    variants = {}
    for n, layer in enumerate(spec.layers()):
        node = layer.model_dump(mode="json")
        if "window" in node["attention"]:
            node["attention"]["window"] = WINDOW_OF_LAYER[windows](n)
        variants[f"layer{n}"] = node
    return ModelSpec.model_validate(
        {**spec.model_dump(mode="json"), "variants": variants, "pattern": list(variants)}
    )


@pytest.mark.parametrize("windows", WINDOW_OF_LAYER)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_every_family_takes_windows_or_refuses_them(name, windows, tokens, tmp_path):
    family, spec = family_and_spec(name)
    spec = windowed(spec, windows)
    decoder = randomised(spec)
    try:
        export_folder(decoder, tmp_path / "out", family)
    except ExportError:
        assert windows != "none" or any(layer.attention.window for layer in family_and_spec(name)[1].layers())
        return
    held_to_transformers(tmp_path / "out", decoder, tokens)
