"""Attention residual, a residual stream."""

from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, ResidualStream, State, inverse_rms
from ablate.parts.starts import zeros
from ablate.registry import stream
from ablate.spec import Shape


@stream("attention_residual", paper="arXiv:2603.15031")
class AttentionResidual(ResidualStream):
    """A branch reads sum_i softmax_i(w . norm(y_i)) y_i over the embedding y_0 and the outputs y_1, y_2, ...
    of all earlier branches; w is the branch's own (Kimi team 2026, full form).

    `block` above 1 is the block form: outputs are first added up, so many branches together, and the last of
    these sums may be incomplete. w starts at 0, a mean of what there is. The head reads as a branch does.
    """

    closes = False

    def __init__(self, shape: Shape, *, block: Annotated[int, Ge(1)] = 1):
        super().__init__(shape)
        self.block, self.sums = block, 1

    def entrance(self) -> nn.Module:
        return Alone()

    def connection(self, branch: int, first: bool) -> Connection:
        begins = branch % self.block == 0
        depth = DepthRead(self.shape.width, self.sums) if branch else Only()
        self.sums += begins
        return DepthAttention(depth, begins)

    def exit(self) -> nn.Module:
        return DepthRead(self.shape.width, self.sums)


class DepthSums(NamedTuple):
    """The embedding and the sums after it, each (B,T,C), and 1 / rms of each, (B,T,1)."""

    values: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


class Alone(nn.Module):
    """(B,T,C) -> one sum."""

    def forward(self, x: Tensor) -> DepthSums:
        return DepthSums((x,), (inverse_rms(x),))


class Only(nn.Module):
    """One sum -> (B,T,C): before the first branch there is the embedding alone."""

    def forward(self, sums: DepthSums) -> Tensor:
        return sums.values[0]


class DepthRead(nn.Module):
    """Sums -> (B,T,C). No sum is copied, so what the backward pass keeps does not grow with the depth."""

    def __init__(self, width: int, sums: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width))
        self.starts = {"query": zeros}
        self.more_products, self.more_activations = sums * width, 3 * sums

    def forward(self, sums: DepthSums) -> Tensor:
        query = self.query.to(sums.values[0].dtype).t()
        scores = [scale * (y @ query) for y, scale in zip(*sums, strict=True)]
        shares = torch.cat(scores, -1).softmax(-1).split(1, -1)
        read: Tensor = shares[0] * sums.values[0]
        for share, y in zip(shares[1:], sums.values[1:], strict=True):
            read = read + share * y
        return read


class DepthAttention(Connection):
    """What a branch adds begins a sum, or goes to the last one."""

    def __init__(self, depth: nn.Module, begins: bool):
        super().__init__()
        self.depth, self.begins = depth, begins

    def read(self, state: State) -> tuple[Tensor, Any]:
        return self.depth(state), state

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        values, scales = kept
        if not self.begins:
            values, delta, scales = values[:-1], values[-1] + delta, scales[:-1]
        return DepthSums((*values, delta), (*scales, inverse_rms(delta)))
