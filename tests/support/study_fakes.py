"""A stand-in for Hydra and torch: specifications are small dicts, and what they cost is arithmetic."""

import copy
import hashlib
import json
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from ablate.spec import digest
from ablate.study.design.planned import Facts
from ablate.study.design.study import Study, parse_study

WIDTH = 32
GROUPS: dict[str, dict[str, Any]] = {
    "model/position": {
        "rope": {"name": "rope", "base": 10000.0},
        "alibi": {"name": "alibi", "max_slope_exponent": 8.0},
        "learned": {"name": "learned"},
        "none": {"name": "none"},
    },
    "model/ffn": {
        "swiglu": {"name": "glu", "activation": {"name": "silu"}, "width": 80},
        "gelu": {"name": "mlp", "activation": {"name": "gelu"}, "width": 80},
        "moe": {
            "name": "moe",
            "expert": {"name": "mlp", "width": 80},
            "experts": 4,
            "balance_loss_weight": 0.0,
        },
    },
    "model/norm": {"rms": {"name": "rms", "eps": 1e-6}, "layer": {"name": "layer", "eps": 1e-6}},
    "model/layers": {
        "uniform": {},
        "local": {"variants": {"near": {"attention": {"window": 4}}, "far": {}}, "pattern": ["near", "far"]},
    },
    "data": {"stdlib": {"source": "stdlib"}, "english": {"source": "english"}},
}
LAYER = ("norm", "placement", "topology", "position", "attention", "ffn")
BASE: dict[str, Any] = {
    "model": {
        "width": WIDTH,
        "depth": 4,
        "heads": 4,
        "vocab": 50,
        "norm": GROUPS["model/norm"]["rms"],
        "placement": {"name": "pre"},
        "topology": {"name": "serial"},
        "position": GROUPS["model/position"]["rope"],
        "attention": {"name": "softmax", "kv_heads": 4, "window": None},
        "ffn": GROUPS["model/ffn"]["swiglu"],
        "kernel": {"name": "auto"},
        "variants": {},
        "pattern": [],
    },
    "data": GROUPS["data"]["stdlib"],
    "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1},
    "budget": {"tokens": 8000, "batch_tokens": 80},
    "seed": {"init": 0, "data": 0, "dropout": 0, "redraw": []},
}


class ConfigError(Exception):
    """As ablate.cli.compose raises it."""

    def __init__(self, mistakes: list[str]):
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Fake:
    """A backend of a study, and how often it was asked to compose and to check."""

    device = "cpu"

    def __init__(self, outcomes: Callable[[Any], Any] | None = None, identify: Any = None) -> None:
        self.outcomes = outcomes
        self.identify = identify or globals()["identify"]
        self.composed = 0
        self.checked = 0
        self.kernels: dict[str, tuple[str, ...]] = {}  # position -> kernels that accept it

    def compose(self, overrides: list[str]) -> dict[str, Any]:
        self.composed += 1
        spec = copy.deepcopy(BASE)
        wrong = []
        for override in overrides:
            key, _, value = override.partition("=")
            if key == "model/layers":
                layer = {field: spec["model"][field] for field in LAYER}
                for name, part in GROUPS[key][value].get("variants", {}).items():
                    merged = {f: {**layer[f], **part.get(f, {})} for f in LAYER}
                    spec["model"]["variants"][name] = copy.deepcopy(merged)
                spec["model"]["pattern"] = list(GROUPS[key][value].get("pattern", []))
            elif key in GROUPS:
                if value not in GROUPS[key]:
                    wrong.append(f"{key}: no choice {value!r}; there are {', '.join(GROUPS[key])}")
                    continue
                *path, last = key.split("/")
                node = spec
                for word in path:
                    node = node[word]
                node[last] = copy.deepcopy(GROUPS[key][value])
            else:
                *words, last = key.split(".")
                node = spec
                for word in words:
                    node = node[word]
                node[last] = json.loads(value)
        if wrong:
            raise ConfigError(wrong)
        return spec

    def check(self, spec: dict[str, Any]) -> Facts:
        self.checked += 1
        model = spec["model"]
        if model["position"]["name"] == "learned" and model["heads"] == 2:
            return Facts(refusals=("learned positions refuse two heads",))
        shapes = {"embedding.weight": (model["vocab"], WIDTH)}
        if model["position"]["name"] == "learned":
            shapes["positions.0.table"] = (16, WIDTH)
        for n in range(model["depth"]):
            head = WIDTH // model["heads"]
            for role in "qkvo":
                width = head * (model["attention"]["kv_heads"] if role in "kv" else model["heads"])
                shapes[f"layers.{n}.attention.{role}.weight"] = (width, WIDTH)
            shapes |= self.ffn(n, model["ffn"])
        total = sum(a * b for a, b in shapes.values())
        kernels = self.kernels.get(model["position"]["name"], ("sdpa", "reference"))
        named = model["kernel"]["name"]
        redrawn = [p for p in shapes if any(fnmatch(p, pattern) for pattern in spec["seed"]["redraw"])]
        acts = [model["position"], model["norm"], _without(model["ffn"], "balance_loss_weight", "width")]
        windows = [layer["attention"]["window"] for layer in model["variants"].values()]
        return Facts(
            id=digest(spec),
            parameters={"total": total, "non_embedding": total - model["vocab"] * WIDTH, "active": total},
            flops_per_token=6.0 * total,
            kv_bytes_per_token=8.0 * model["attention"]["kv_heads"],
            memory_bytes=16.0 * total,
            kernel=kernels[0] if named == "auto" else named,
            kernels=kernels,
            tree={name: _hash(shape) for name, shape in shapes.items()},
            output=_hash([acts, windows, redrawn]),
        )

    def ffn(self, n: int, ffn: dict[str, Any]) -> dict[str, tuple[int, int]]:
        if ffn["name"] == "moe":
            each = range(ffn["experts"])
            width = ffn["expert"]["width"]
            return {f"layers.{n}.ffn.{e}.{role}": (width, WIDTH) for e in each for role in ("up", "down")}
        roles = ("gate", "up", "down") if ffn["name"] == "glu" else ("up", "down")
        return {f"layers.{n}.ffn.{role}.weight": (ffn["width"], WIDTH) for role in roles}


def identify(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "identified": True}


def study(**changes: Any) -> Study:
    """A study of positions at a fixed rate, with these fields changed."""
    node: dict[str, Any] = {
        "question": "Which position code is best?",
        "axis": ["model.position"],
        "baseline": "rope",
        "arms": {"rope": [], "alibi": ["model/position=alibi"], "none": ["model/position=none"]},
        "tune": "fixed",
        "placebo": False,
    }
    node.update(changes)
    return parse_study({key: value for key, value in node.items() if value is not ...})


RATES = [3e-4, 6e-4, 1e-3, 2e-3, 3e-3]


def _without(node: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
