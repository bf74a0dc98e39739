"""Dynamic Tanh, which takes the place of a norm."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.registry import norm


@norm("dyt", paper="arXiv:2503.10622")
class DyT(nn.Module):
    """y = w tanh(alpha x) + b, alpha one learned number: no mean, no variance, each token by itself.

    Zhu et al. 2025, section 4. For language models the authors also scale the embedding by sqrt(C)
    (`model.embedding.scale=sqrt_width`) and start alpha by the width; here it starts as told.
    """

    def __init__(self, width: int, *, alpha: Annotated[float, Gt(0)] = 0.5):
        super().__init__()
        self.constants = {"alpha": alpha, "weight": 1.0, "bias": 0.0}
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * torch.tanh(self.alpha * x) + self.bias
