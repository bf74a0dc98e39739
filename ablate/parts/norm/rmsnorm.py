from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from ablate.registry import norm


@norm("rmsnorm", paper="arXiv:1910.07467")
class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps); with `offset`, (1 + w) in the place of w (Gemma), so that weight
    decay pulls towards the plain norm. Zhang & Sennrich 2019, eq. 4."""

    def __init__(self, width: int, *, eps: Annotated[float, Gt(0)] = 1e-5, offset: bool = False):
        super().__init__()
        self.eps, self.offset = eps, offset
        self.constants = {"weight": 0.0 if offset else 1.0}
        self.weight = nn.Parameter(torch.full((width,), self.constants["weight"]))

    def forward(self, x: Tensor) -> Tensor:
        weight = 1 + self.weight if self.offset else self.weight
        return F.rms_norm(x, self.weight.shape, weight.to(x.dtype), self.eps)
