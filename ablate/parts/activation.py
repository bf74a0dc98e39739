"""The nonlinearities of the feed-forward. Each is supplied with nothing and maps x to x's shape."""

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.registry import activation


@activation("silu", paper="arXiv:1710.05941")
class SiLU(nn.Module):
    """x sigmoid(x): Swish with beta = 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)
