"""The decoder: tokens are embedded, pass through the layers, and become logits or a loss."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablate.model.backbone import Backbone
from ablate.model.future import FutureContext
from ablate.model.head import TokenLoss
from ablate.model.init import Init, fill_parameters
from ablate.model.loss import Sums
from ablate.model.lost import Watched
from ablate.parts.base import AuxOutputs, ForwardContext, IncompatibleParts
from ablate.parts.canon import canons
from ablate.registry import future, init, norm
from ablate.spec import ModelSpec


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

    def _build_future(self) -> None:
        layer, place = self.spec.layers()[-1], self._placements()[-1]
        self.future: nn.Module = future.build(
            self.spec.future,
            self.shape,
            partial(self._layer, layer, place, self._plain_frame()),
            partial(norm.build, self.spec.norm, self.shape.width),
        )

    def _group(self) -> None:
        self._check_loop()
        super()._group()

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
