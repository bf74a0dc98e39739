"""The contracts between a decoder and its parts.

Shape letters: B rows, T queries (the tokens of this call), S keys, C width, H heads, K key-value heads,
D head width, E experts. `(1|B, T)` is one row for all, or one for each.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ablate.errors import AblateError
from ablate.spec import LayerSpec, ModelSpec, Shape


class IncompatibleParts(AblateError, ValueError):
    """A combination that cannot be built or run, with the reason and what to do instead."""


# ------------------------------------------------------------------------------------ who sees whom


@dataclass(frozen=True)
class AttentionPositions:
    """Where the queries and the keys of one call stand.

    Positions ascend inside a document. A key slot that holds nothing stands at `NOWHERE`.
    """

    i: Tensor  # (1|B, T) positions of the queries
    j: Tensor  # (1|B, S) positions of the keys
    documents: tuple[Tensor, Tensor] | None = None  # (B, T), (B, S): equal numbers see each other
    prefix: Tensor | None = None  # (B,) length of the part that sees itself whole
    own: bool = False  # the keys are the queries' own, in their order
    last: bool = False  # no key stands after any query: a single token after all that it remembers
    near: bool = False  # no key stands before the window of any query

    @property
    def plain(self) -> bool:
        """Nothing but the order of the tokens decides who sees whom."""
        return self.documents is None and self.prefix is None

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The positions of query and key of each score (B,H,T,S): (1|B,1,T,1) and (1|B,1,1,S)."""
        return self.i[:, None, :, None], self.j[:, None, None, :]

    def grid(self, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same behind the number of the head, (1,H,1,1): what a bias is a function of."""
        return torch.arange(heads, device=self.i.device)[None, :, None, None], *self.pairs()


NOWHERE = 2**30


@dataclass(frozen=True)
class Mask:
    """Which keys a query may see. `window` counts the keys seen, the token itself included."""

    window: int | None = None
    sink_tokens: int = 0  # the first positions of a document stay visible outside of the window
    prefix: bool = False  # positions before the call's prefix length see each other
    chunk: int | None = None  # keys of other chunks of so many positions are hidden

    def visible(self, i: Tensor, j: Tensor, p: Tensor | None) -> Tensor:
        """Elementwise: may a query at i see a key at j, where the prefix ends at p?"""
        seen = j <= i if p is None else (j <= i) | (j < p)
        if self.window is not None:
            seen = seen & ((i - j < self.window) | (j < self.sink_tokens))
        if self.chunk is not None:
            seen = seen & (i // self.chunk == j // self.chunk)
        return seen

    def dense(self, sight: AttentionPositions) -> Tensor:
        """(1|B, 1, T, S) bool."""
        i, j = sight.pairs()
        p = sight.prefix[:, None, None, None] if self.prefix and sight.prefix is not None else None
        seen = self.visible(i, j, p)
        if sight.documents is not None:
            of_query, of_key = sight.documents
            seen = seen & (of_query[:, None, :, None] == of_key[:, None, None, :])
        return seen

    def causal(self, sight: AttentionPositions) -> bool:
        """Each query sees the keys up to its own, and no other rule applies."""
        return sight.own and self.free(sight)

    def free(self, sight: AttentionPositions) -> bool:
        """Beyond the order of positions, nothing hides a key."""
        near = (self.window is None or sight.near) and self.chunk is None
        return near and sight.documents is None and (sight.prefix is None or not self.prefix)


Bias = Callable[[Tensor, Tensor, Tensor], Tensor]  # (h, i, j) -> what is added to the score, elementwise


class Scores(NamedTuple):
    """What happens to q.k before the softmax: scale, then soft-cap, then bias, then mask; and the
    learned logit that joins the denominator."""

    scale: float
    softcap: float | None = None
    sink: Tensor | None = None  # (H,)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # by the precision of a run


@dataclass(frozen=True)
class KernelRequirements:
    """What a layer asks of a kernel; made once, when the model is built."""

    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    mask: Mask
    bias: bool = False
    learned_bias: bool = False
    slopes: bool = False  # the bias is linear in the distance
    more_scores: bool = False  # a layer adds scores that it makes of the text
    learned_scores: bool = False  # and they have a gradient
    softcap: bool = False
    sink: bool = False
    dropout: float = 0.0
    documents: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    training: bool = True


class Kernel:
    """Computes attention. Every kernel means the same mathematics as `reference`."""

    name: ClassVar[str]

    def refuses(self, need: KernelRequirements) -> str | None:
        """Why this kernel cannot serve the need; None if it can."""
        raise NotImplementedError

    def settle(self, needs: list[KernelRequirements]) -> "Kernel":
        """The kernel that will run, for all of the needs. Raises IncompatibleParts: nothing is replaced in
        silence."""
        reasons = sorted({r for need in needs if (r := self.refuses(need))})
        if reasons:
            raise IncompatibleParts(
                f"kernel {self.name}: {'; '.join(reasons)} (kernel=auto finds one that can)"
            )
        return self

    def for_mask(self, mask: Mask) -> "Kernel":
        """The kernel of the layers under a mask, where one that is settled has another for some of them."""
        return self

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> Any:
        """What the layers that share mask, sight and bias can share: computed once for each call."""
        raise NotImplementedError

    def with_scores(self, prepared: Any, more: Tensor) -> Any:
        """What `prepare` gave, for one layer that adds `more` (1|B, 1|H, T, S) to its scores; -inf hides a
        key. Called where `KernelRequirements.more_scores` said so."""
        raise NotImplementedError

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: Any, scores: Scores, dropout: float
    ) -> Tensor:
        """q (B,H,T,D), k (B,K,S,D), v (B,K,S,Dv) -> (B,H,T,Dv)."""
        raise NotImplementedError


# --------------------------------------------------------------------------------------- positions


class Position(nn.Module):
    """Tells the model where a token stands. A scheme overrides the hooks where it acts; the others are
    the identity. One instance serves all the layers that name it; `layer(n)` is where a scheme keeps
    something for each layer."""

    acts_on_embedding: ClassVar[bool] = False  # acts on the embedding, so it is one for the whole model
    bias: Bias | None = None
    slopes: Tensor | None = None  # (H,) if bias(h,i,j) = -slopes[h] (i - j): a fact that flash kernels use
    max_positions: int | None = None  # the number of positions it can name
    extra_key_dim: int = 0  # what query and key add to the width of a head
    relative: ClassVar[bool] = True  # only differences of positions matter

    def __init__(self, shape: Shape):
        super().__init__()

    def locate(self, positions: Tensor) -> Any:
        """What the layers need to know of the positions (1|B, T), computed once for each call."""
        return positions

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B,T,C), at (1|B,T)."""
        return x

    def layer(self, n: int) -> "LayerPosition":
        return self

    def query(self, q: Tensor, where: Any) -> Tensor:
        """q (B,H,T,D)."""
        return self.rotate(q, where)

    def key(self, k: Tensor, where: Any) -> Tensor:
        """k (B,K,T,D)."""
        return self.rotate(k, where)

    def rotate(self, x: Tensor, where: Any) -> Tensor:
        return x

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if cls.acts_on_embedding and any(other.position != layer.position for other in model.layers()):
            return ["acts at the input, so every layer must name it; a pattern cannot mix it with another"]
        return []


class LayerPosition(Protocol):
    """What an attention layer sees of a position."""

    def query(self, q: Tensor, where: Any) -> Tensor: ...
    def key(self, k: Tensor, where: Any) -> Tensor: ...


# ------------------------------------------------------------------------------------ one call


class PositionInputs(NamedTuple):
    """`Position.locate` of the queries, of the keys as they are written, and of the keys as they are
    read (None where keys are stored turned)."""

    query: Any
    new: Any
    seen: Any


class MemoryView(NamedTuple):
    """What a memory says of a call before its layers run."""

    sight: AttentionPositions
    new: Tensor  # (1|B, T) positions at which new keys are turned
    seen: Tensor | None = None  # (1|B, S) those of stored keys, where they are turned at reading


class _Memory(Protocol):
    """What a group of layers remembers of earlier calls."""

    def look(self, call: "ForwardContext") -> MemoryView:
        """Called once for each call, before `extend`."""
        ...

    def extend(
        self, n: Hashable, k: Tensor, v: Tensor, turn: Callable[[Tensor, Any], Tensor], where: PositionInputs
    ) -> tuple[Tensor, Tensor]:
        """Remember new keys and values (B,K,T,D) under the name n, as a rule the layer's number; return all
        that may be seen (B,K,S,D)."""
        ...


class NoCache:
    """Nothing is remembered: the keys of this call are all the keys there are."""

    def look(self, call: "ForwardContext") -> MemoryView:
        documents = None if call.document is None else (call.document, call.document)
        return MemoryView(
            AttentionPositions(call.positions, call.positions, documents, call.prefix, own=True),
            call.positions,
        )

    def extend(
        self, n: Hashable, k: Tensor, v: Tensor, turn: Callable[[Tensor, Any], Tensor], where: PositionInputs
    ) -> tuple[Tensor, Tensor]:
        return turn(k, where.new), v


class Report(dict[str, Tensor]):
    """What the parts of one layer report of a call, by name; and of which tokens they are to report."""

    states: Any

    def __init__(self, real: Tensor | None = None):
        super().__init__()
        self.real = real  # (B, T) bool, as `ForwardContext.real`
        self.n, self.states = 0, None  # the layer, and where its feed-forward finds earlier inputs


AuxOutputs = list[Report]  # one for each layer


class Shared:
    """What layers leave for later layers of a call. It is no dict, since FSDP copies those among a layer's
    arguments, and what is left in a copy is lost."""

    def __init__(self, left: dict[Any, Any] | None = None):
        self.left = left or {}

    def __getitem__(self, name: Hashable) -> Any:
        return self.left[name]

    def __setitem__(self, name: Hashable, value: Any) -> None:
        self.left[name] = value

    def __contains__(self, name: Hashable) -> bool:
        return name in self.left

    def setdefault(self, name: Hashable, value: Any) -> Any:
        """What stands under the name; `value`, which is left there, if nothing does."""
        return self.left.setdefault(name, value)


def mean_of_real(x: Tensor, real: Tensor | None) -> Tensor:
    """The mean of x (B,T,...) over the real tokens of all rows; 0 where there is none."""
    if real is None:
        return x.mean((0, 1))
    at = real.nonzero(as_tuple=True)
    return x[at].sum(0) / max(1, len(at[0]))


def real_tokens(aux: dict[str, Tensor]) -> Tensor | None:
    """(B, T) bool: the tokens that a report is of; None: all. A plain dictionary is a report of all."""
    return aux.real if isinstance(aux, Report) else None


@dataclass
class ForwardContext:
    """One forward pass: where the tokens stand, what is remembered, and what is reported.

    Document borders, prefixes and left-padded prompts are said here, for each token and row. `aux` is
    written by name, so writing twice (a recomputed checkpoint) is writing once. What it reports is of the
    `real` tokens alone, and does not depend on how far rows are filled up.
    """

    positions: Tensor  # (1|B, T)
    document: Tensor | None = None  # (B, T); negative: padding
    prefix: Tensor | None = None  # (B,)
    memories: list[Any] | None = None  # one for each group of layers; None: nothing is remembered
    aux: AuxOutputs | None = None
    last: bool = False  # only the logits of the last token are wanted
    real: Tensor | None = None  # (B, T) bool: not filling or padding; None: all are

    @classmethod
    def of(cls, tokens: Tensor) -> "ForwardContext":
        """Whole rows from position 0."""
        return cls(torch.arange(tokens.shape[1], device=tokens.device)[None])

    @classmethod
    def ragged(cls, lengths: Tensor, longest: int) -> "ForwardContext":
        """Rows of the given lengths (B,), padded on the left to `longest`. The padding is a document of
        its own, which no token sees."""
        positions = torch.arange(longest, device=lengths.device) - (longest - lengths[:, None])
        return cls(positions, torch.where(positions < 0, -1, 0), real=positions >= 0)


class LayerContext(NamedTuple):
    """What layers that attend to keys share in one call."""

    where: PositionInputs
    memory: Any
    prepared: Any
    aux: AuxOutputs
    position: Position
    kernel: Kernel
    sight: AttentionPositions
    shared: Shared
