"""A decoder without what training adds: tokens in, logits out."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ablate.model.head import Head
from ablate.model.residual import Frame, LookupBranch, Placement, ResidualScale
from ablate.parts.base import AuxOutputs, ForwardContext, Kernel, Report, Shared
from ablate.parts.canon import STATES, canons
from ablate.parts.connection import Connection, State
from ablate.parts.mixer import CallSetting, Group
from ablate.parts.recurrence import RecurrentGroup
from ablate.registry import attention, ffn, kernel, lookup, norm, placement, position, stream, topology
from ablate.spec import LayerSpec, ModelSpec


class Backbone(nn.Module):
    """Tokens (B,T) -> logits (B,T,V).

    The forward pass is the same for training, prefill and decoding; what differs travels in the
    `ForwardContext`. `ablate.model.decoder.Decoder` adds losses, starts and checks.
    """

    layers: Any  # ModuleList of topologies
    positions: Any  # ModuleList of Position, one for each that differs

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec, self.shape = spec, spec.shape()
        self.path = spec.path()
        self._build()
        self._group()
        self.kernel: Kernel = kernel.build(spec.kernel)
        self.through: Callable[..., State] = _through

    def _build(self) -> None:
        """Make the modules."""
        self._build_input()
        self._build_layers()

    def _placements(self) -> list[Placement]:
        return [placement.build(layer.placement, self.spec.depth) for layer in self.spec.layers()]

    def _build_input(self) -> None:
        spec, C = self.spec, self.shape.width
        self.embedding = nn.Embedding(self.shape.vocab, C)
        scale = C**0.5 if spec.embedding.scale == "sqrt_width" else spec.embedding.scale
        self.scale = nn.Identity() if scale == 1.0 else ResidualScale(scale)
        self.embedding_norm = nn.Sequential(
            norm.build(spec.embedding.norm, C),
            norm.build(spec.norm, C) if self._placements()[0].embed else nn.Identity(),
            nn.Dropout(spec.dropout),
        )
        distinct = spec.distinct_positions()
        self.positions = nn.ModuleList(position.build(options, self.shape) for options in distinct)

    def _build_layers(self) -> None:
        spec, C = self.spec, self.shape.width
        layers, placements = spec.layers(), self._placements()
        made, branches = stream.build(spec.stream, self.shape), count()
        self.entrance = made.entrance()

        def connection(first: bool) -> Connection:
            made_connection: Connection = made.connection(next(branches), first)
            return made_connection

        self.layers, self.before, self.after = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer, place in zip(layers, placements, strict=True):
            frame = Frame(partial(norm.build, layer.norm, C), spec.dropout, connection, C)
            looked_up = lookup.build(layer.lookup, self.shape)
            self.before.append(frame.lookup(looked_up, "start"))
            self.layers.append(self._layer(layer, place, frame))
            self.after.append(frame.lookup(looked_up, "end"))
        # At the input there is one vector a token, whatever the stream makes of it.
        looked_up = lookup.build(spec.embedding.lookup, self.shape)
        self.input_lookup = self._plain_frame().lookup(looked_up, "start", "end")
        self.exit = made.exit()
        self.final_norm = norm.build(spec.norm, C) if placements[-1].final else nn.Identity()
        self.head = Head(spec.head, C, self.shape.vocab)

    def _plain_frame(self) -> Frame:
        """That of a layer outside of the stream."""
        layer_norm = self.spec.layers()[-1].norm
        make = partial(norm.build, layer_norm, self.shape.width)
        return Frame(make, self.spec.dropout, lambda first: Connection(), self.shape.width)

    def _layer(self, layer: LayerSpec, place: Placement, frame: Frame) -> nn.Module:
        """One layer, in its frame of norms and connections."""
        made: nn.Module = topology.build(
            layer.topology,
            attention.build(layer.attention, self.shape),
            ffn.build(layer.ffn, self.shape),
            place,
            frame,
        )
        return made

    def _group(self) -> None:
        """Find the layers that share a memory."""
        distinct = self.spec.distinct_positions()
        self.position_of = [distinct.index(layer.position) for layer in self.spec.layers()]
        groups: list[Group] = [
            layer.attention.group(p) for layer, p in zip(self.layers, self.position_of, strict=True)
        ]
        lookups: list[Group] = [module.lookup.group() for module in self.lookups()]
        states: list[Group] = [RecurrentGroup()] if canons(self.layers) else []
        self.groups = list(dict.fromkeys([*groups, *lookups, *states]))
        self.states_group = self.groups.index(states[0]) if states else None
        self.group_of = [self.groups.index(group) for group in groups]
        self.lookup_group = self.groups.index(lookups[0]) if lookups else 0

    def lookups(self) -> list[LookupBranch]:
        """The lookups that there are, that of the input first."""
        places = (self.input_lookup, *self.before, *self.after)
        return [module for module in places if isinstance(module, LookupBranch)]

    def logits(self, tokens: Tensor, call: ForwardContext) -> Tensor:
        """tokens (B,T) -> logits (B,T,V), or (B,1,V) where the call wants the last."""
        last, _ = self.read(tokens, call)
        logits: Tensor = self.head(self.normed(last, call), self.embedding.weight)
        return logits

    def read(self, tokens: Tensor, call: ForwardContext) -> tuple[Tensor, list[Any]]:
        """tokens (B,T) -> what leaves the stream (B,T,C), and the views of this call."""
        x = self.scale(self.embedding(tokens))
        for scheme in self.positions:
            x = scheme.embed(x, call.positions)
        x = self.embedding_norm(x)
        views = self.views(call, x.dtype, {"tokens": tokens, "embedded": x})
        state = self.entrance(self.input_lookup(x, views[self.lookup_group], -1))
        for n, again in self.path:
            first = again * len(self.groups)
            state = self.through(self.before[n], state, views[first + self.lookup_group], n)
            state = self.through(self.layers[n], state, views[first + self.group_of[n]], n)
            state = self.through(self.after[n], state, views[first + self.lookup_group], n)
        return self.exit(state), views

    def normed(self, last: Tensor, call: ForwardContext) -> Tensor:
        """What the head reads, (B,T,C) or (B,1,C)."""
        x: Tensor = self.final_norm(last[:, -1:] if call.last else last)
        return x

    def views(
        self, call: ForwardContext, dtype: torch.dtype, shared: dict[Any, Any] | None = None
    ) -> list[Any]:
        """What each group of layers shares in this call, for one pass of the loop after the other; all may
        read what is `shared`."""
        groups = self.groups * self.spec.loop.times
        memories = call.memories or [group.nothing() for group in groups]
        aux = call.aux or self.aux()
        left = Shared(shared)
        setting = CallSetting(self.positions, self.kernel, self.shape.heads, dtype, aux, left)
        views = [group.view(call, memory, setting) for group, memory in zip(groups, memories, strict=True)]
        for n, report in enumerate(aux):
            report.real, report.n = call.real, n
        if self.states_group is not None:
            # without what would hold itself, and so what layers leave there
            left[STATES] = states = views[self.states_group]._replace(aux=[], shared=Shared())
            for report in aux:
                report.states = states
        return views

    def memories(self, capacity: int) -> list[Any]:
        """An empty memory for each group and pass, for rows of up to `capacity` tokens."""
        return [group.memory(capacity) for group in self.groups * self.spec.loop.times]

    def aux(self) -> AuxOutputs:
        return [Report() for _ in self.layers]


def _through(layer: nn.Module, *given: Any) -> State:
    return layer(*given)
