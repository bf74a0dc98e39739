"""The nonlinearities of the feed-forward. Each is supplied with nothing and maps x to x's shape."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.scan import softplus
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


@activation(
    "softplus", paper="https://papers.nips.cc/paper/2000/hash/44968aece94f667e4095002d140b5896-Abstract.html"
)
class Softplus(nn.Module):
    """ln(1 + exp(x)) (Dugas et al. 2000, eq. 4): the gate of Laguna's attention."""

    def forward(self, x: Tensor) -> Tensor:
        return softplus(x)


@activation("xielu", paper="arXiv:2411.13010")
class XIELU(nn.Module):
    """a x^2 + beta x above 0, b (expm1(x) - x) + beta x below, with a = softplus(p) and
    b = beta + softplus(n) (Huang & Schlag 2024; Apertus). p and n are learned, one of each for a layer, and
    start so that a and b are `positive` and `negative`; beta is 0.5."""

    def __init__(self, *, positive: Annotated[float, Gt(0)] = 0.8, negative: Annotated[float, Gt(0.5)] = 0.8):
        super().__init__()
        self.beta, self.eps = 0.5, -1e-6
        self.constants = {
            "positive": math.log(math.expm1(positive)),
            "negative": math.log(math.expm1(negative - self.beta)),
        }
        self.positive = nn.Parameter(torch.full((1,), self.constants["positive"]))
        self.negative = nn.Parameter(torch.full((1,), self.constants["negative"]))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.softplus(self.positive), self.beta + F.softplus(self.negative)
        below = x.clamp(max=self.eps)
        return torch.where(x > 0, a * x * x, b * (torch.expm1(below) - x)) + self.beta * x


@activation("identity", paper="arXiv:2002.05202")
class Identity(nn.Module):
    """x: makes a GLU bilinear (Shazeer 2020, eq. 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return x
