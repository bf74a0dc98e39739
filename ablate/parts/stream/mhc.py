"""Manifold-constrained hyper-connections, a residual stream."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, Copies, ResidualStream, State, inverse_rms
from ablate.registry import stream
from ablate.spec import Shape


@stream("mhc", paper="arXiv:2512.24880")
class ManifoldHyperConnections(ResidualStream):
    """X <- R' X + p f(r' X)' over N streams X (N,C), with r = sigmoid, p = `write_scale` sigmoid and R doubly
    stochastic, all of s norm(X) W + c (Xie et al. 2025, eq. 6 to 9; DeepSeek-V4).

    R is softmax(.) over its rows, then made doubly stochastic by `iterations` of Sinkhorn and Knopp.
    `mixing=identity` leaves R out (iHC, HY-V4). All streams start as the embedding; what leaves them is
    sum sigmoid(s norm(X) W + c) X. c starts so that R is nearly the identity and r, p are nearly
    plain: r = 1/N and p = 1. Streams that are equal get equal gradients, so it is the drawn
    W, times a learned s that starts at 0.01, that sets them apart. `eps` is added to r, and `write_eps` to p
    (HY-V4); `norm_eps` is that of the norm.
    """

    closes = False

    def __init__(
        self,
        shape: Shape,
        *,
        streams: Annotated[int, Gt(1)] = 4,
        mixing: Literal["sinkhorn", "identity"] = "sinkhorn",
        iterations: Annotated[int, Ge(1)] = 20,
        write_scale: Annotated[float, Gt(1)] = 2.0,
        eps: Annotated[float, Gt(0)] = 1e-6,
        write_eps: Annotated[float, Ge(0)] = 0.0,
        norm_eps: Annotated[float, Gt(0)] = 1e-6,
    ):
        super().__init__(shape)
        self.streams, self.mixing, self.iterations = streams, mixing, iterations
        self.small = _Small(eps, write_eps, norm_eps)
        self.write_scale = write_scale

    def entrance(self) -> nn.Module:
        return Copies(self.streams)

    def connection(self, branch: int, first: bool) -> Connection:
        C, N = self.shape.width, self.streams
        if self.mixing == "identity" or branch == 0:  # before the first branch there is nothing to mix
            return IndependentConnection(C, N, self.write_scale, self.small)
        return SinkhornConnection(C, N, self.write_scale, self.small, self.iterations)

    def exit(self) -> nn.Module:
        return Collapsed(self.shape.width, self.streams, self.small)


class _Small(NamedTuple):
    """What is added to weights that read, to those that write, and in the norm."""

    read: float
    write: float
    norm: float


class Weighing(nn.Module):
    """s (norm(X) W) + c for each of several groups of weights: numbers of a token, of all its streams."""

    def __init__(
        self, width: int, streams: int, eps: float, sizes: tuple[int, ...], centres: tuple[float, ...]
    ):
        super().__init__()
        self.sizes, self.eps = sizes, eps
        self.weight = nn.Parameter(torch.empty(sum(sizes), streams * width))
        self.offset, self.scale = nn.Parameter(torch.empty(sum(sizes))), nn.Parameter(torch.empty(len(sizes)))
        self.centres, self.streams = centres, streams
        self.constants = {"scale": 0.01}
        self.starts = {"offset": self.start}

    def start(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The centre of each group; of a matrix, on its diagonal."""
        parts = [
            centre * (torch.eye(self.streams).flatten() if size == self.streams**2 else torch.ones(size))
            for size, centre in zip(self.sizes, self.centres, strict=True)
        ]
        return torch.cat(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (B,T,N,C) -> for each group (B,T,size), in fp32 at least."""
        flat = x.flatten(2)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        flat = flat * inverse_rms(flat, self.eps)
        found = F.linear(flat, self.weight.to(flat.dtype)).split_with_sizes(self.sizes, -1)
        offsets = self.offset.split_with_sizes(self.sizes)
        return tuple(y * s + c for y, s, c in zip(found, self.scale, offsets, strict=True))


def logit(p: float) -> float:
    """Where the sigmoid is p."""
    return math.log(p / (1 - p))


class IndependentConnection(Connection):
    """R is the identity."""

    def __init__(
        self, width: int, streams: int, write_scale: float, small: _Small, *sizes: tuple[int, float]
    ):
        super().__init__()
        self.write_scale, self.eps, self.write_eps = write_scale, small.read, small.write
        groups = ((streams, logit(1 / streams)), (streams, logit(1 / write_scale)), *sizes)
        self.weighing = Weighing(
            width,
            streams,
            small.norm,
            tuple(size for size, _ in groups),
            tuple(centre for _, centre in groups),
        )
        self.more_activations = 4 * streams * width

    def read(self, state: State) -> tuple[Tensor, Any]:
        reading, writing, *rest = self.weighing(state)
        x = ((reading.sigmoid() + self.eps)[..., None].to(state.dtype) * state).sum(2)
        return x, (self.mixed(state, *rest), self.write_scale * writing.sigmoid() + self.write_eps)

    def mixed(self, state: Tensor) -> Tensor:
        return state

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        mixed, writing = kept
        return mixed + writing[..., None].to(delta.dtype) * delta[:, :, None]


class SinkhornConnection(IndependentConnection):
    """R by Sinkhorn and Knopp: rows and columns sum to 1."""

    def __init__(self, width: int, streams: int, write_scale: float, small: _Small, iterations: int):
        super().__init__(width, streams, write_scale, small, (streams**2, 4.0))
        self.iterations = iterations
        self.more_products = streams**2 * width
        self.more_activations += streams * width + 2 * iterations * (streams**2 + streams)

    def mixed(self, state: Tensor, logits: Tensor | None = None) -> Tensor:
        assert logits is not None
        N = state.shape[2]
        mixing = logits.unflatten(-1, (N, N)).softmax(-1) + self.eps
        mixing = mixing / (mixing.sum(-2, keepdim=True) + self.eps)
        for _ in range(self.iterations - 1):
            mixing = mixing / (mixing.sum(-1, keepdim=True) + self.eps)
            mixing = mixing / (mixing.sum(-2, keepdim=True) + self.eps)
        mixed: Tensor = mixing.transpose(-1, -2).to(state.dtype) @ state
        return mixed


class Collapsed(nn.Module):
    """(B,T,N,C) -> (B,T,C): a weighted sum of the streams."""

    def __init__(self, width: int, streams: int, small: _Small):
        super().__init__()
        self.eps = small.read
        self.weighing = Weighing(width, streams, small.norm, (streams,), (logit(1 / streams),))

    def forward(self, x: Tensor) -> Tensor:
        (weights,) = self.weighing(x)
        collapsed: Tensor = ((weights.sigmoid() + self.eps)[..., None].to(x.dtype) * x).sum(2)
        return collapsed
