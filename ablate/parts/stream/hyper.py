"""Hyper, a residual stream."""

from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, Copies, ResidualStream, State, inverse_rms
from ablate.parts.starts import eye, ones, zeros
from ablate.registry import stream
from ablate.spec import Shape


@stream("hyper", paper="arXiv:2409.19606")
class HyperConnections(ResidualStream):
    """X <- R' X + p f(r' X)' over N streams X (N,C) of each token (Zhu et al. 2024, eq. 1 to 5, static).

    r starts as the unit vector of the branch's number modulo N, R as the identity, p as ones, so that the
    model starts as the plain stream. With `dynamic`, r, R and p get s tanh(norm(X) W) of the token added, s
    starting at 0.01 and W at 0 (eq. 10 to 13; norm is an RMSNorm without weight). All streams start as the
    embedding; the last layer's are averaged, where the paper takes their sum.
    """

    closes = False

    def __init__(self, shape: Shape, *, streams: Annotated[int, Gt(1)] = 4, dynamic: bool = False):
        super().__init__(shape)
        self.streams, self.dynamic = streams, dynamic

    def entrance(self) -> nn.Module:
        return Copies(self.streams)

    def connection(self, branch: int, first: bool) -> Connection:
        make = DynamicHyperConnection if self.dynamic else HyperConnection
        return make(self.streams, branch % self.streams, self.shape.width)

    def exit(self) -> nn.Module:
        return Mean()


class Mean(nn.Module):
    """(B,T,N,C) -> (B,T,C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


class HyperConnection(Connection):
    """Static: three small matrices for a branch."""

    def __init__(self, streams: int, one: int, width: int):
        super().__init__()
        self.reading = nn.Parameter(torch.empty(1, streams))
        self.mixing = nn.Parameter(torch.empty(streams, streams))
        self.writing = nn.Parameter(torch.empty(1, streams))
        # Each number of the small matrices meets every channel.
        self.more_products = streams * (streams + 1) * width - streams**2
        self.more_activations = 2 * streams * width
        self.starts = {
            "reading": lambda shape, generator: torch.eye(streams)[one : one + 1],
            "mixing": eye,
            "writing": ones,
        }

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r and p (..., 1, N) and R (..., N, N), of streams x (B,T,N,C)."""
        return self.reading.to(x.dtype), self.mixing.to(x.dtype), self.writing.to(x.dtype)

    def read(self, state: State) -> tuple[Tensor, Any]:
        reading, mixing, writing = self.weights(state)
        mixed = mixing.transpose(-1, -2) @ state
        return (reading @ state)[:, :, 0], (mixed, writing)

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        mixed, writing = kept
        return mixed + writing.transpose(-1, -2) * delta[:, :, None]


class DynamicHyperConnection(HyperConnection):
    """What each token adds to the matrices of a branch."""

    def __init__(self, streams: int, one: int, width: int):
        super().__init__(streams, one, width)
        self.of_reading = nn.Parameter(torch.empty(width, 1))
        self.of_mixing = nn.Parameter(torch.empty(width, streams))
        self.of_writing = nn.Parameter(torch.empty(width, 1))
        self.reading_scale, self.mixing_scale, self.writing_scale = (
            nn.Parameter(torch.empty(1)) for _ in range(3)
        )
        self.more_products += streams * (streams + 2) * width - streams * width
        self.more_activations += 2 * streams * width
        self.constants = {f"{name}_scale": 0.01 for name in ("reading", "mixing", "writing")}
        drawn = {f"of_{name}": zeros for name in ("reading", "mixing", "writing")}
        self.starts = {**self.starts, **drawn}

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = x * inverse_rms(x)
        given = zip(
            super().weights(x),
            (self.of_reading, self.of_mixing, self.of_writing),
            (self.reading_scale, self.mixing_scale, self.writing_scale),
            strict=True,
        )
        reading, mixing, writing = (
            (fixed, scale.to(x.dtype) * (normed @ of.to(x.dtype)).tanh()) for fixed, of, scale in given
        )
        return (
            reading[0] + reading[1].transpose(-1, -2),
            mixing[0] + mixing[1],
            writing[0] + writing[1].transpose(-1, -2),
        )
