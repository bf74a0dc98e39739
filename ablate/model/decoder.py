"""The decoder: tokens are embedded, pass through the layers, and become logits or a loss."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablate.model.future import FutureContext
from ablate.model.head import Head, TokenLoss
from ablate.model.init import Init, fill_parameters
from ablate.model.loss import Sums
from ablate.model.lost import Watched
from ablate.model.residual import Frame, LookupBranch, Placement, ResidualScale
from ablate.parts.base import AuxOutputs, ForwardContext, IncompatibleParts, Kernel, Report, Shared
from ablate.parts.canon import STATES, canons
from ablate.parts.connection import Connection, State
from ablate.parts.mixer import CallSetting, Group
from ablate.parts.recurrence import RecurrentGroup
from ablate.registry import (
    attention,
    ffn,
    future,
    init,
    kernel,
    lookup,
    norm,
    placement,
    position,
    stream,
    topology,
)
from ablate.spec import LayerSpec, ModelSpec


class Backbone(nn.Module):
    """Tokens (B,T) -> logits (B,T,V).

    The forward pass is the same for training, prefill and decoding; what differs travels in the
    `ForwardContext`. It is all that an exported model has; `Decoder` adds what training needs.
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


class Decoder(Backbone):
    """A decoder-only language model: tokens (B,T) -> logits (B,T,V), or losses.

    Raises IncompatibleParts where parts cannot work together.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: str = "cpu",
        documents: bool = False,
        training: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        """All but `spec` is what the kernel must serve; `dtype` is that of the attention."""
        super().__init__(spec)
        facts = {"device": device, "documents": documents, "training": training, "dtype": dtype}
        needs = [
            need
            for layer, p in zip(self.layers, self.position_of, strict=True)
            for need in layer.attention.needs(self.positions[p], **facts)
        ]
        self.kernel = self.kernel.settle(needs)

    def _build(self) -> None:
        try:
            with Watched() as watched:
                self._build_input()
                self._build_future()
                self._build_layers()
        except (RuntimeError, TypeError) as error:
            if "verflow" not in str(error):  # torch's word for sizes that it cannot count
                raise
            raise IncompatibleParts(
                f"a tensor of the model is too large to be counted: {error}".splitlines()[0]
            ) from error
        watched.refuse(self)
        self._check_loop()

    def _build_future(self) -> None:
        layer, place = self.spec.layers()[-1], self._placements()[-1]
        self.future: nn.Module = future.build(
            self.spec.future,
            self.shape,
            partial(self._layer, layer, place, self._plain_frame()),
            partial(norm.build, self.spec.norm, self.shape.width),
        )

    def _check_loop(self) -> None:
        """What a part reports of a call it reports once. Raises IncompatibleParts."""
        again = {n for n, later in self.path if later}
        if any(hasattr(module, "auxiliary") for module in self.future.modules()):
            raise IncompatibleParts(
                f"future {self.spec.future.name}: its layers are as the last one, which reports once; "
                "end the pattern with a layer without experts and without an indexer"
            )
        looped = sorted(n for n in again if canons(self.layers[n]))
        if looped:
            raise IncompatibleParts(
                f"loop: a Canon layer of layer {looped[0]} remembers the inputs of one pass, and the layer "
                "runs several times; set loop.first and loop.last to layers without"
            )
        for n, kind in sorted((n, kind) for n in again for kind in ("attention", "ffn")):
            if hasattr(getattr(self.layers[n], kind), "auxiliary"):
                raise IncompatibleParts(
                    f"loop: {kind} {getattr(self.spec.layers()[n], kind).name} of layer {n} reports of a "
                    "call once, and the layer runs several times; set loop.first and loop.last to layers "
                    "without experts and without an indexer"
                )

    def forward(
        self,
        tokens: Tensor,
        call: ForwardContext | None = None,
        targets: Tensor | None = None,
        summed: bool = False,
    ) -> Tensor | TokenLoss | Sums:
        """tokens (B,T) -> logits (B,T,V), or (B,1,V) where the call wants the last; with targets (B,T), -100
        where there is none, the loss of each, or their sums."""
        call = ForwardContext.of(tokens) if call is None else call
        if targets is None:
            return self.logits(tokens, call)
        last, views = self.read(tokens, call)
        x = self.normed(last, call)
        if not summed:
            each: TokenLoss = self.head.loss(x, self.embedding.weight, targets)
            return each
        sums = self.head.sums(x, self.embedding.weight, targets)
        return self._with_future(sums, last, tokens, targets, call, views) if self.training else sums

    def _with_future(
        self,
        sums: Sums,
        x: Tensor,
        tokens: Tensor,
        targets: Tensor,
        call: ForwardContext,
        views: list[Any],
    ) -> Sums:
        """With the losses of the tokens after the next one, where they are trained."""
        n = len(self.layers) - 1
        lent = FutureContext(
            tokens,
            targets,
            call.document,
            lambda ahead: self.scale(self.embedding(ahead)),
            lambda layer, u: self.through(layer, u, views[self.group_of[n]], n),
            lambda u, later: self.head.sums(u, self.embedding.weight, later),
        )
        with_future: Sums = self.future(sums, x, lent)
        return with_future

    def recompute(self) -> None:
        """Keep no activations inside layers; compute them again in the backward pass (Chen et al. 2016)."""
        self.through = partial(checkpoint, use_reentrant=False)

    def auxiliary(self, aux: AuxOutputs) -> Tensor:
        """The sum of what parts add to the loss, from their reports of a call."""
        losses = [
            part.auxiliary(report)
            for layer, report in zip(self.layers, aux, strict=True)
            for part in (layer.attention, layer.ffn)
            if report and hasattr(part, "auxiliary")  # a part that reports nothing adds nothing
        ]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.embedding.weight.device)

    @cached_property
    def adds_to_loss(self) -> bool:
        """Whether training has more to minimise than the loss of the next token: the losses of parts, the
        z-loss, and the losses of tokens further ahead."""
        parts = (part for layer in self.layers for part in (layer.attention, layer.ffn))
        return (
            self.head.z_loss > 0
            or self.spec.future.name != "none"
            or any(hasattr(part, "auxiliary") for part in parts)
        )

    def init_parameters(self, seed: int, redraw: Sequence[str] = ()) -> "Decoder":
        """Draw every parameter (see `ablate.model.init`)."""
        scheme: Init = init.build(self.spec.init, self.shape)
        fill_parameters(self, scheme, seed, redraw)
        return self
