"""Heads that predict tokens beyond the next one while a model is trained.

They lower the loss through what the layers learn, and are left out of evaluation and decoding: the language
loss that is reported is that of the next token alone. Letters: B rows, T tokens, C width.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor, nn

from ablate.model.loss import Sums
from ablate.parts.linear import Linear
from ablate.registry import future
from ablate.spec import Shape

NO_TARGET = -100  # a target that there is not
Make = Callable[[], nn.Module]
Ahead = Annotated[int, Gt(0), Le(16)]
Weight = Annotated[float, Gt(0)]


class FutureContext(NamedTuple):
    """What the decoder lends in one call."""

    tokens: Tensor  # (B,T)
    targets: Tensor  # (B,T) the next tokens, NO_TARGET where there is none
    document: Tensor | None  # (B,T)
    embed: Callable[[Tensor], Tensor]  # tokens (B,T) -> (B,T,C)
    layer: Callable[[nn.Module, Tensor], Tensor]  # a layer as one of the decoder's, x (B,T,C) -> (B,T,C)
    loss: Callable[[Tensor, Tensor], Sums]  # the head: x (B,T,C), targets (B,T)

    def later(self, ahead: int) -> Tensor:
        """(B,T): the token that stands so many after the next; none beyond the row or the document."""
        found = F.pad(self.targets[:, ahead:], (0, ahead), value=NO_TARGET)
        if self.document is None:
            return found
        of_later = F.pad(self.document[:, ahead:], (0, ahead), value=-1)
        return found.masked_fill(of_later != self.document, NO_TARGET)


@future("none", paper="the next token alone")
class NoFuture(nn.Module):
    """The loss of the next token, as it is."""

    def __init__(self, shape: Shape, layer: Make, norm: Make):
        super().__init__()

    def forward(self, sums: Sums, x: Tensor, call: FutureContext) -> Sums:
        return sums


@future("independent", paper="arXiv:2404.19737")
class IndependentHeads(nn.Module):
    """Token t+1+k from head(norm(layer_k(x_t))), k = 1..`tokens`, each with its own layer (Gloeckle et al.
    2024, section 2). The objective is L + w mean_k L_k, where the paper adds up all with equal weights."""

    def __init__(
        self,
        shape: Shape,
        layer: Make,
        norm: Make,
        *,
        tokens: Ahead = 1,
        weight: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__()
        self.weight = weight
        self.layers = nn.ModuleList(layer() for _ in range(tokens))
        self.norms = nn.ModuleList(norm() for _ in range(tokens))

    def forward(self, sums: Sums, x: Tensor, call: FutureContext) -> Sums:
        """x (B,T,C): what the last layer gives, before the final norm."""
        each = [
            call.loss(norm(call.layer(layer, x)), call.later(k)).objective
            for k, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), 1)
        ]
        return sums._replace(objective=sums.objective + self.weight * torch.stack(each).mean())


@future("chained", paper="arXiv:2412.19437")
class ChainedHeads(nn.Module):
    """x^k = layer_k(M_k [norm(x^{k-1}_t) ; norm(E(token t+k))]), token t+1+k from head(norm(x^k)), k = 1..
    `tokens` (DeepSeek-V3, eq. 21 to 25). The objective is L + w mean_k L_k; embedding and head are shared."""

    def __init__(
        self,
        shape: Shape,
        layer: Make,
        norm: Make,
        *,
        tokens: Ahead = 1,
        weight: Annotated[float, Gt(0)] = 0.3,
    ):
        super().__init__()
        self.weight = weight
        C = shape.width
        self.layers = nn.ModuleList(layer() for _ in range(tokens))
        self.mixes = nn.ModuleList(Linear(2 * C, C, bias=False) for _ in range(tokens))
        self.norms_before, self.norms_of_tokens, self.norms = (
            nn.ModuleList(norm() for _ in range(tokens)) for _ in range(3)
        )

    def forward(self, sums: Sums, x: Tensor, call: FutureContext) -> Sums:
        """x (B,T,C): what the last layer gives, before the final norm."""
        each = []
        modules = zip(
            self.layers, self.mixes, self.norms_before, self.norms_of_tokens, self.norms, strict=True
        )
        for k, (layer, mix, before, of_token, norm) in enumerate(modules, 1):
            ahead = call.embed(F.pad(call.tokens[:, k:], (0, k)))
            x = call.layer(layer, mix(torch.cat((before(x), of_token(ahead)), -1)))
            each.append(call.loss(norm(x), call.later(k)).objective)
        return sums._replace(objective=sums.objective + self.weight * torch.stack(each).mean())
