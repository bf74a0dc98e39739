"""The contract of token mixers: what the registry `attention` holds.

Softmax attention remembers keys and values; a recurrent layer remembers a state of fixed size. A mixer says
what its memory is by its *group*: layers of equal groups share what is prepared for a call. The decoder knows
neither kind.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ablate.parts.base import (
    AuxOutputs,
    ForwardContext,
    Kernel,
    KernelRequirements,
    LayerContext,
    Mask,
    NoCache,
    Position,
    PositionInputs,
    Scores,
    Shared,
)
from ablate.parts.memory import Cache, RollingCache
from ablate.spec import LayerSpec, ModelSpec


class CallSetting(NamedTuple):
    """What a decoder lends to the groups of one call."""

    positions: Sequence[Position]  # those that differ
    kernel: Kernel
    heads: int
    dtype: torch.dtype  # of the stream
    aux: AuxOutputs
    shared: Shared


class Group(Hashable, Protocol):
    """Layers that share a memory, and what is prepared for a call. Equal groups are one group."""

    @property
    def prefix(self) -> bool:
        """Whether these layers let a prefix see itself whole."""
        ...

    def nothing(self) -> Any:
        """The memory of a call that remembers nothing."""
        ...

    def memory(self, capacity: int) -> Any:
        """An empty memory for rows of up to `capacity` tokens."""
        ...

    def view(self, call: ForwardContext, memory: Any, setting: CallSetting) -> Any:
        """What the layers share in this call; it has `aux`. Called once for each call, before the layers."""
        ...


class MixerCosts(NamedTuple):
    """Of one layer and a row of T tokens, beside its matrices. Products are multiply-adds."""

    products: float  # of a token, the mean over the row
    products_unmasked: float  # the same, if every key counted
    last_products: float  # of the row's last token
    token_bytes: int  # what the memory grows by with each token
    row_bytes: int  # what the memory holds of the whole row


class Mixer(nn.Module):
    """Mixes the tokens of a row: called with x (B,T,C), the view of its group and the number of the layer,
    gives (B,T,C)."""

    takes_position: ClassVar[bool] = True  # the layer's position acts inside of it

    def group(self, position: int) -> Group:
        """The group of a layer whose position has this number."""
        raise NotImplementedError

    def needs(self, position: Position, **facts: Any) -> list[KernelRequirements]:
        """What the layer asks of a kernel; nothing where it calls none."""
        return []

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        """For rows of so many tokens; activations are of `value_bytes`."""
        raise NotImplementedError

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        scheme = layer.position
        made: Any = scheme.entry.make
        takes = cls.takes_position or getattr(layer.attention.entry.make, "takes_position", True)
        if takes or scheme.name == "none" or made.acts_on_embedding:
            return []
        return [f"takes no position, so {scheme.name} would do nothing; say position=none for its layers"]


# ------------------------------------------------------------------------------- keys and values


@dataclass(frozen=True)
class KeyValueGroup:
    """Layers that attend to keys under one mask, with one position, by as many heads."""

    position: int
    mask: Mask
    heads: int | None = None  # None: the model's

    @property
    def prefix(self) -> bool:
        return self.mask.prefix

    def nothing(self) -> NoCache:
        return NoCache()

    def memory(self, capacity: int) -> Cache | RollingCache:
        """A window remembers no more than it sees."""
        if self.mask.window is None or self.mask.prefix:
            return Cache(capacity)
        return RollingCache(min(self.mask.window, capacity), self.mask.sink_tokens)

    def view(self, call: ForwardContext, memory: Any, setting: CallSetting) -> LayerContext:
        scheme, kernel = setting.positions[self.position], setting.kernel.for_mask(self.mask)
        sight, new, seen = memory.look(call)
        query = scheme.locate(sight.i)
        where = PositionInputs(
            query,
            query if new is sight.i else scheme.locate(new),
            None if seen is None else scheme.locate(seen),
        )
        heads = self.heads or setting.heads
        prepared = kernel.prepare(self.mask, sight, scheme.bias, heads, setting.dtype)
        return LayerContext(where, memory, prepared, setting.aux, scheme, kernel, sight, setting.shared)


class KeyValueMixer(Mixer):
    """A mixer that attends to keys and values by a kernel. It sets `heads`, `kv_heads`, `key_width`,
    `value_width` and `mask`; what it leaves out of the rest is as here."""

    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    mask: Mask
    softcap: float | None = None
    dropout: float = 0.0
    sink: Tensor | None
    more_scores: bool = False  # it adds scores that it makes of the text
    learned_scores: bool = False  # which have a gradient

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("sink", None)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, view: LayerContext, n: int, scores: Scores) -> Tensor:
        """q (B,H,T,D), k and v (B,K,T,D) of layer n's new tokens -> (B,T,H D): positions, memory, kernel."""
        position = view.position.layer(n)
        k, v = view.memory.extend(
            n, k, v, lambda k, where: self.placed_key(position.key(k, where)), view.where
        )
        view.shared["keys", n] = k, v
        return self.read(q, k, v, view, n, scores)

    def read(self, q: Tensor, k: Tensor, v: Tensor, view: LayerContext, n: int, scores: Scores) -> Tensor:
        """As `attend`, of keys and values (B,K,S,D) as a memory gives them."""
        q = self.placed_query(view.position.layer(n).query(q, view.where.query), view)
        heads = view.kernel(q, k, v, view.prepared, scores, self.dropout if self.training else 0.0)
        return heads.transpose(1, 2).flatten(2)

    def placed_query(self, q: Tensor, view: LayerContext) -> Tensor:
        """What else happens to a query (B,H,T,D) after its position."""
        return q

    def placed_key(self, k: Tensor) -> Tensor:
        """What else happens to a key (B,K,T,D) after its position."""
        return k

    def group(self, position: int) -> KeyValueGroup:
        return KeyValueGroup(position, self.mask)

    def needs(self, position: Position, **facts: Any) -> list[KernelRequirements]:
        return [
            KernelRequirements(
                heads=self.heads,
                kv_heads=self.kv_heads,
                key_width=self.key_width + position.extra_key_dim,
                value_width=self.value_width,
                mask=self.mask,
                bias=position.bias is not None,
                learned_bias=position.bias is not None and any(True for _ in position.parameters()),
                slopes=position.slopes is not None,
                softcap=self.softcap is not None,
                sink=self.sink is not None,
                more_scores=self.more_scores,
                learned_scores=self.learned_scores,
                dropout=self.dropout,
                **facts,
            )
        ]

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        key_width = self.key_width + position.extra_key_dim
        score = self.heads * (key_width + self.value_width)
        seen = keys_seen(self.mask, tokens)
        token_bytes = self.kv_heads * (key_width + self.value_width) * value_bytes
        room = self.group(0).memory(tokens).size
        return MixerCosts(
            score * sum(seen) / tokens, score * tokens, score * seen[-1], token_bytes, token_bytes * room
        )


def gated(heads: Tensor, gate: Tensor) -> Tensor:
    """heads (B,T,H V), each head or channel times its gate, (B,T,H) or (B,T,H V)."""
    return (heads.reshape(*gate.shape, -1) * gate[..., None]).flatten(-2)


@lru_cache
def keys_seen(mask: Mask, tokens: int) -> tuple[int, ...]:
    """How many keys each token of a row sees. A prefix is data, so it counts as causal."""
    if mask.chunk is not None:
        return tuple(n % mask.chunk + 1 for n in range(tokens))
    if mask.window is None:
        return tuple(range(1, tokens + 1))
    w, first = mask.window, mask.sink_tokens
    return tuple(min(n, w) + min(first, max(0, n - w)) for n in range(1, tokens + 1))
