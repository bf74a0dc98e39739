from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.parts.linear import product
from ablate.spec import HeadSpec


class TokenLoss(NamedTuple):
    nll: Tensor  # (B,T) nats; 0 where the target is -100
    z: Tensor | None  # (B,T) squared logsumexp of the logits; None where the z-loss is off


class Head(nn.Module):
    """logits = cap tanh(x W' / cap), W the embedding's own where tied (Press & Wolf 2017)."""

    def __init__(self, spec: HeadSpec, width: int, vocab: int):
        super().__init__()
        self.weight = None if spec.tied else nn.Parameter(torch.empty(vocab, width))
        self.bias = nn.Parameter(torch.zeros(vocab)) if spec.bias else None
        self.softcap, self.z_loss = spec.softcap, spec.z_loss

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.cap(product(x, embedding if self.weight is None else self.weight, self.bias))

    def cap(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def loss(self, x: Tensor, embedding: Tensor, targets: Tensor) -> TokenLoss:
        """The loss of each token, in fp32."""
        logits = self(x, embedding).float()
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        if not self.z_loss:
            return TokenLoss(nll, None)
        return TokenLoss(nll, torch.where(targets >= 0, logits.logsumexp(-1).square(), 0.0))
