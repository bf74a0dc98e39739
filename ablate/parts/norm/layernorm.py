"""Layer normalisation."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from ablate.registry import norm


@norm("layernorm", paper="arXiv:1607.06450")
class LayerNorm(nn.Module):
    """y = w (x - mean) / sqrt(var + eps) + b (Ba et al. 2016, eq. 4). Without `bias` as in MPT, without
    `weight` too as in OLMo-1."""

    def __init__(
        self, width: int, *, eps: Annotated[float, Gt(0)] = 1e-5, weight: bool = True, bias: bool = True
    ):
        super().__init__()
        self.width, self.eps = width, eps
        self.constants = {"weight": 1.0, "bias": 0.0}
        self.weight = nn.Parameter(torch.ones(width)) if weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)
