"""Mixers that read a row in order and remember a state of fixed size.

A state never crosses the border of a document: it is empty before the first token of each. Padding on the
left is a document of its own, so ragged rows need nothing more.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ablate.parts.base import AuxOutputs, ForwardContext, Shared
from ablate.parts.diagonal import accumulated
from ablate.parts.memory import documents_of
from ablate.parts.mixer import CallSetting, Mixer, MixerCosts
from ablate.parts.scan import CHUNK_TOKENS, scanned
from ablate.parts.starts import uniform
from ablate.spec import LayerSpec, ModelSpec


class StateStore(Protocol):
    """Where the layers of a group find and leave their states."""

    def look(self, call: ForwardContext) -> Tensor | None: ...
    def read(self, n: int, name: str, empty: Tensor) -> Tensor: ...
    def write(self, n: int, name: str, state: Tensor) -> None: ...


class NoStates:
    """Nothing is remembered: every row begins with an empty state."""

    def look(self, call: ForwardContext) -> Tensor | None:
        """(B,T): the number of borders of documents up to each token; None without documents."""
        return None if call.document is None else borders(call.document, call.document[:, :1])

    def read(self, n: int, name: str, empty: Tensor) -> Tensor:
        return empty

    def write(self, n: int, name: str, state: Tensor) -> None:
        pass


class States:
    """The states of all layers after the last token, of the document that it belongs to."""

    def __init__(self) -> None:
        self.tokens = 0
        self.document: Tensor | None = None  # (B, 1)
        self.stored: dict[tuple[int, str], Tensor] = {}

    def look(self, call: ForwardContext) -> Tensor | None:
        """As of `NoStates`; 0 is what goes on with the document of the tokens before."""
        document = documents_of(call, self.document is not None, self.tokens)
        self.tokens += call.positions.shape[1]
        if document is None:
            return None
        before = document[:, :1] if self.document is None else self.document
        self.document = document[:, -1:]
        return borders(document, before)

    def read(self, n: int, name: str, empty: Tensor) -> Tensor:
        return self.stored.get((n, name), empty)

    def write(self, n: int, name: str, state: Tensor) -> None:
        self.stored[n, name] = state


def borders(document: Tensor, before: Tensor) -> Tensor:
    """document (B,T), that of the token before the first (B,1) -> (B,T), how often it has changed."""
    return (document != torch.cat((before, document[:, :-1]), 1)).cumsum(1)


class RecurrentContext(NamedTuple):
    """What recurrent layers share in one call."""

    memory: StateStore
    segment: Tensor | None  # (B,T): tokens of equal numbers may know of each other; None: all may
    positions: Tensor  # (1|B, T)
    aux: AuxOutputs
    shared: Shared  # what layers leave for later layers of this call

    def scan(
        self,
        n: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        beta: Tensor | None = None,
        erase: Tensor | None = None,
    ) -> Tensor:
        """`ablate.parts.scan` from layer n's remembered state on, whose successor is remembered. q, k
        (B,H,S,D), v (B,H,S,V), log_decay (B,H,S,1|D), beta (B,H,S,1), erase (B,H,S,D) -> (B,H,S,V), of T
        tokens or as many steps for each."""
        empty = v.new_zeros(v.shape[0], v.shape[1], k.shape[-1], v.shape[-1])
        state, segment = self.memory.read(n, "state", empty), self.segment
        if segment is not None and v.shape[2] > segment.shape[1]:
            segment = segment.repeat_interleave(v.shape[2] // segment.shape[1], 1)
        o, state = scanned(q, k, v, log_decay, state, segment, beta, erase)
        self.memory.write(n, "state", state)
        return o

    def accumulate(self, n: int, decay: Tensor, x: Tensor) -> Tensor:
        """`ablate.parts.diagonal` from layer n's remembered state on, whose successor is remembered. decay, x
        (B,T,*) -> (B,T,*)."""
        empty = torch.zeros_like(x[:, 0])
        h, state = accumulated(decay, x, self.memory.read(n, "state", empty), self.segment)
        self.memory.write(n, "state", state)
        return h

    def earlier(self, n: int, name: str, x: Tensor, places: Sequence[int], nothing: int = 0) -> list[Tensor]:
        """x (B,T,*) as each token reads it at the places of a window that ends with the token itself, at the
        last place. Beyond its document it reads `nothing`. The last tokens are remembered under `name`."""
        T, past = x.shape[1], max(places)
        empty = x.new_full((len(x), past, *x.shape[2:]), nothing)
        read = torch.cat((self.memory.read(n, name, empty), x), 1)
        if self.segment is None:
            self.memory.write(n, name, read[:, T:])
            return [read[:, at : at + T] for at in places]
        segment = torch.cat((self.segment.new_zeros(len(x), past), self.segment), 1)
        segment = segment.reshape(*segment.shape, *[1] * (x.ndim - 2))
        self.memory.write(n, name, read[:, T:].where(segment[:, T:] == segment[:, -1:], nothing))
        now = segment[:, past:]
        return [read[:, at : at + T].where(segment[:, at : at + T] == now, nothing) for at in places]


class RecurrentGroup(NamedTuple):
    """All recurrent layers of a model."""

    prefix: bool = False

    def nothing(self) -> NoStates:
        return NoStates()

    def memory(self, capacity: int) -> States:
        return States()

    def view(self, call: ForwardContext, memory: StateStore, setting: CallSetting) -> RecurrentContext:
        return RecurrentContext(memory, memory.look(call), call.positions, setting.aux, setting.shared)


class RecurrentMixer(Mixer):
    """A mixer whose memory of a row has a fixed size: `state_sizes` says how many numbers each state has, and
    `state_products` how many multiply-adds a token costs beside the matrices."""

    takes_position = False
    state_sizes: Sequence[int]
    state_products: int
    more_activations: int = 0

    def kept(self, heads: int, scanned: int, convolved: int = 0) -> None:
        """Estimate what training keeps of a token beside the projections: `scanned` are the channels of
        queries, keys and values, `convolved` those that short convolutions read."""
        self.more_activations = 6 * scanned + 3 * heads * CHUNK_TOKENS + 4 * convolved

    def group(self, position: int) -> RecurrentGroup:
        return RecurrentGroup()

    def costs(self, position: Any, tokens: int, value_bytes: int) -> MixerCosts:
        """States are kept in fp32 at least."""
        products = float(self.state_products)
        row_bytes = sum(self.state_sizes) * max(value_bytes, 4)
        return MixerCosts(products, products, products, 0, row_bytes)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if any(getattr(other.attention, "mask", "causal") == "prefix" for other in model.layers()):
            wrong.append("reads in order, so it cannot see a prefix whole; say attention.mask=causal")
        return wrong


class ShortConvolution(nn.Module):
    """y_t = sum_{j<K} w_j x_{t-K+1+j}, for each channel apart, inside of a document (Gated DeltaNet, Mamba).
    With a dilation the tokens read are so many apart.

    The weights start as torch's convolutions do, uniformly within 1/sqrt(K).
    """

    def __init__(self, width: int, kernel_size: int, bias: bool = False, dilation: int = 1):
        super().__init__()
        self.width, self.past = width, (kernel_size - 1) * dilation
        self.places = range(0, self.past + 1, dilation)  # of the tokens read, in what is remembered and new
        self.weight = nn.Parameter(torch.empty(width, 1, kernel_size))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.starts = {"weight": uniform(kernel_size**-0.5)}

    def forward(self, x: Tensor, view: RecurrentContext, n: int, name: str) -> Tensor:
        """x (B,T,width) -> (B,T,width); the last inputs are remembered under `name`."""
        taps = self.weight[:, 0].unbind(-1)
        read = view.earlier(n, name, x, self.places)
        y = sum(tap * inputs for tap, inputs in zip(taps, read, strict=True))
        assert isinstance(y, Tensor)
        return y if self.bias is None else y + self.bias
