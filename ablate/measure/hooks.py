"""What goes on inside a decoder during a forward pass: its residual stream and its attention logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.base import Scores
from ablate.parts.kernel.reference import Reference


@contextmanager
def streams(decoder: Decoder) -> Iterator[list[Tensor]]:
    """Fills the list with L+1 tensors (B,T,C) at each forward pass: what enters the first layer, and what
    each layer hands on; of a wider stream what its exit makes of it."""
    heard: list[Tensor] = []

    def enter(module: Any, given: tuple[Any, ...]) -> None:
        heard[:] = [decoder.exit(given[0]).detach()]

    def leave(module: Any, given: tuple[Any, ...], out: Any) -> None:
        heard.append(decoder.exit(out).detach())

    hooks = [decoder.layers[0].register_forward_pre_hook(enter)]
    hooks += [layer.register_forward_hook(leave) for layer in decoder.layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def highest_logits(decoder: Decoder) -> Iterator[dict[int, float]]:
    """Keeps, for each layer, the highest number that has entered the softmax of its attention: q.k scaled,
    capped, with its bias, where the key may be seen. A layer that asks no kernel is not in it."""
    was = decoder.kernel
    listening = Listening()

    def enter(n: int) -> Any:
        def begin(*_: Any) -> None:
            listening.layer = n

        return begin

    hooks = [layer.register_forward_pre_hook(enter(n)) for n, layer in enumerate(decoder.layers)]
    decoder.kernel = listening
    try:
        yield listening.highest
    finally:
        decoder.kernel = was
        for hook in hooks:
            hook.remove()


class Listening(Reference):
    """`reference`, which on the way remembers the highest score of each layer."""

    name = "listening"

    def __init__(self) -> None:
        super().__init__()
        self.layer = 0
        self.highest: dict[int, float] = {}

    def scored(self, q: Tensor, k: Tensor, prepared: Tensor, scores: Scores) -> Tensor:
        s = super().scored(q, k, prepared, scores)
        highest = float(s.max())
        self.highest[self.layer] = max(highest, self.highest.get(self.layer, highest))
        return s
