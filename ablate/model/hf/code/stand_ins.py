"""What an exported file has in the place of ablate's registries and specifications, and of what only makes
training faster. The text of this module goes into the file (`ablate.model.hf.code.sources`)."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.spec import Shape, distinct, looped

PARTS: dict[str, dict[str, Callable[..., Any]]] = {}  # of each kind those that this model has, by their names


class Options(SimpleNamespace):
    """Options as attributes. Equal options are one and the same part."""


def read_options(node: Any) -> Any:
    """Options from the plain data of config.json."""
    if isinstance(node, dict):
        return Options(**{key: read_options(value) for key, value in node.items()})
    return tuple(map(read_options, node)) if isinstance(node, list) else node


class Registry:
    """One kind of part. `registry(name, paper=...)` is the decorator that adds to it; `paper` is where the
    idea comes from."""

    def __init__(self, kind: str):
        self.parts = PARTS.setdefault(kind, {})

    def __call__(self, name: str, *, paper: str) -> Callable[..., Any]:
        def add(make: Callable[..., Any]) -> Callable[..., Any]:
            self.parts[name] = make
            return make

        return add

    def build(self, options: Options, *supplied: Any, **named: Any) -> Any:
        """The part itself: `supplied` is what the model gives, the rest comes from its options. A part that
        is an option of another one is handed over as a function that makes it."""
        chosen = {
            key: partial(Registry(value.kind).build, value) if isinstance(value, Options) else value
            for key, value in vars(options).items()
            if key not in ("kind", "name")
        }
        return self.parts[options.name](*supplied, **named, **chosen)


norm = Registry("norm")
activation = Registry("activation")
ffn = Registry("ffn")
position = Registry("position")
scaling = Registry("scaling")
attention = Registry("attention")
kernel = Registry("kernel")
placement = Registry("placement")
topology = Registry("topology")
stream = Registry("stream")
lookup = Registry("lookup")


class ModelSpec:
    """The options of a model: `kinds` are the layers that differ, `pattern` says which of them stands at each
    depth."""

    def __init__(self, node: dict[str, Any]):
        for key, value in node.items():
            setattr(self, key, read_options(value))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the config's `model` says nothing of {name}")

    def shape(self) -> Shape:
        return Shape(self.width, self.depth, self.heads, self.head_width, self.context, self.vocab)

    def layers(self) -> list[Options]:
        """The layer at each depth."""
        return [self.kinds[n] for n in self.pattern]

    def path(self) -> list[tuple[int, int]]:
        """The way through the layers: (layer, which pass of the loop; 0 outside)."""
        return looped(self.depth, self.loop.times, self.loop.first, self.loop.last)

    def distinct_positions(self) -> list[Options]:
        return distinct(layer.position for layer in self.layers())


Linear = nn.Linear


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) W' (in, out) + b -> (..., out)."""
    return F.linear(x, weight, bias)


def sdpa(v: Tensor, mask: Tensor | None) -> Callable[..., Tensor]:
    """What computes attention to values v under a mask."""
    return F.scaled_dot_product_attention


def cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the sine of each angle."""
    return angle.cos(), angle.sin()
