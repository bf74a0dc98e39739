"""The head: logits of the vocabulary, or the loss of targets without keeping all logits."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablate.model.loss import Sums, in_slices, slice_of
from ablate.parts.linear import Linear, product
from ablate.registry import activation, norm
from ablate.spec import HeadSpec, TransformSpec


class TokenLoss(NamedTuple):
    """The loss of each target by itself."""

    nll: Tensor  # (B,T) nats; 0 where the target is -100
    z: Tensor | None  # (B,T) squared logsumexp of the logits; None where the z-loss is off


class Transform(nn.Module):
    """norm(activation(x W' + b)) (BERT, ModernBERT)."""

    def __init__(self, spec: TransformSpec, width: int):
        super().__init__()
        self.dense = Linear(width, width, bias=spec.bias)
        self.activation = activation.build(spec.activation)
        self.norm = norm.build(spec.norm, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.activation(self.dense(x)))
        return y


class Head(nn.Module):
    """logits = cap tanh((m x W' + b) / cap), W the embedding's own where tied (Press & Wolf 2017), m the
    multiplier (Cohere's `logit_scale`, one over Granite's `logits_scaling`). A `transform` makes x."""

    def __init__(self, spec: HeadSpec, width: int, vocab: int):
        super().__init__()
        self.weight = None if spec.tied else nn.Parameter(torch.empty(vocab, width))
        self.bias = nn.Parameter(torch.zeros(vocab)) if spec.bias else None
        self.multiplier, self.softcap, self.z_loss = spec.multiplier, spec.softcap, spec.z_loss
        self.transform = Transform(spec.transform, width) if spec.transform else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.cap(product(self.scaled(x), embedding if self.weight is None else self.weight, self.bias))

    def scaled(self, x: Tensor) -> Tensor:
        """What the matrix is given of x."""
        made: Tensor = self.transform(x)
        return made if self.multiplier == 1.0 else self.multiplier * made

    def cap(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def loss(self, x: Tensor, embedding: Tensor, targets: Tensor) -> TokenLoss:
        """x (B,T,C), targets (B,T) -> the loss of each token, in fp32 at least. Large logits come in slices,
        and once more in the backward pass."""
        rows, y = x.flatten(0, 1), targets.flatten()
        size = slice_of(len(rows), len(embedding), x.device.type)
        of_slice = self.whole
        if size < len(rows) and torch.is_grad_enabled():
            of_slice = partial(checkpoint, of_slice, use_reentrant=False, preserve_rng_state=False)
        slices = zip(rows.split(size), y.split(size), strict=True)
        nll, z = zip(*[of_slice(part, embedding, of) for part, of in slices], strict=True)
        return TokenLoss(
            torch.cat(nll).view_as(targets), torch.cat(z).view_as(targets) if self.z_loss else None
        )

    def sums(self, x: Tensor, embedding: Tensor, targets: Tensor) -> Sums:
        """As `loss`, summed. With the gradients at once where the logits are large, and on a CPU where they
        are larger than the weight, whose gradient is then scaled once more."""
        rows = x.flatten(0, 1)
        large = slice_of(len(rows), len(embedding), x.device.type) < len(rows)
        pays = x.is_cpu and len(rows) > rows.shape[1]
        if (large or pays) and torch.is_grad_enabled():
            weight = embedding if self.weight is None else self.weight
            return in_slices(
                self.scaled(rows), weight, self.bias, targets.flatten(), self.softcap, self.z_loss
            )
        each = self.loss(x, embedding, targets)
        nll = each.nll.sum()
        return Sums(nll if each.z is None else nll + self.z_loss * each.z.sum(), nll.detach())

    def whole(self, x: Tensor, embedding: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (N,C), targets (N,) -> nll and z, with the logits of all in memory."""
        logits = self(x, embedding)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nll = F.cross_entropy(logits, targets, reduction="none")
        if not self.z_loss:
            return nll, None
        return nll, torch.where(targets >= 0, logits.logsumexp(-1).square(), 0.0)
