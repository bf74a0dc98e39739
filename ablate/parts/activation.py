"""The nonlinearities of the feed-forward. Each is supplied with nothing and maps x to x's shape."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.registry import activation


@activation("relu", paper="https://proceedings.mlr.press/v15/glorot11a.html")
class ReLU(nn.Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


@activation("relu2", paper="arXiv:2109.08668")
class SquaredReLU(nn.Module):
    """max(x, 0)^2 (Primer; So et al. 2021, section 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@activation("gelu", paper="arXiv:1606.08415")
class GELU(nn.Module):
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016, section 2): `exact`, or one
    of the paper's two approximations, by `tanh` (GPT-2) or as x `sigmoid`(1.702 x) (QuickGELU)."""

    def __init__(self, *, form: Literal["exact", "tanh", "sigmoid"] = "exact"):
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "sigmoid":
            return x * torch.sigmoid(1.702 * x)
        return F.gelu(x, approximate="tanh" if self.form == "tanh" else "none")


@activation("silu", paper="arXiv:1710.05941")
class SiLU(nn.Module):
    """x sigmoid(x): Swish with beta = 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


@activation("swish", paper="arXiv:1710.05941")
class Swish(nn.Module):
    """x sigmoid(beta x): beta a constant or, `learned`, one number for each layer that starts there
    (Ramachandran et al. 2017, section 4)."""

    def __init__(self, *, beta: float = 1.0, learned: bool = False):
        super().__init__()
        self.constants = {"beta": beta}
        self.beta = nn.Parameter(torch.full((1,), beta)) if learned else beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


@activation("sigmoid", paper="arXiv:1612.08083")
class Sigmoid(nn.Module):
    """1 / (1 + exp(-x)): the gate of the first GLU (Dauphin et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@activation("identity", paper="arXiv:2002.05202")
class Identity(nn.Module):
    """x: makes a GLU bilinear (Shazeer 2020, eq. 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return x
