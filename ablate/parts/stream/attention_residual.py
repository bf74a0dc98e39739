from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ablate.parts.connection import Close, Connection, State, Stream
from ablate.parts.starts import zeros
from ablate.registry import stream
from ablate.spec import Shape


@stream("attention_residual", paper="arXiv:2603.15031")
class AttentionResidual(Stream):
    """A branch reads sum_i softmax_i(w . norm(y_i)) y_i over the embedding y_0 and the outputs y_1, y_2, ...
    of all earlier branches; w is the branch's own (Kimi team 2026, full form).

    `block` above 1 is the block form: outputs are first added up, so many branches together, and the last of
    these sums may be incomplete. w starts at 0, a mean of what there is. The head reads as a branch does.
    """

    closes = False

    def __init__(self, shape: Shape, *, block: Annotated[int, Ge(1)] = 1):
        super().__init__(shape)
        self.block = block

    def entrance(self) -> nn.Module:
        return Alone()

    def connection(self, branch: int, first: bool) -> Connection:
        depth = DepthRead(self.shape.width) if branch else Only()
        return DepthAttention(depth, begins=branch % self.block == 0)

    def exit(self) -> nn.Module:
        return DepthRead(self.shape.width)


class Alone(nn.Module):
    """(B,T,C) -> (B,T,1,C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None]


class Only(nn.Module):
    """(B,T,1,C) -> (B,T,C): before the first branch there is the embedding alone."""

    def forward(self, y: Tensor) -> Tensor:
        return y[:, :, 0]


class DepthRead(nn.Module):
    """(B,T,l,C) -> (B,T,C)."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width))
        self.starts = {"query": zeros}

    def forward(self, y: Tensor) -> Tensor:
        normed = y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        scores = normed @ self.query.to(y.dtype).t()  # (B,T,l,1)
        return (scores.softmax(2) * y).sum(2)


class DepthAttention(Connection):
    """What a branch adds begins a sum, or goes to the last one."""

    def __init__(self, depth: nn.Module, begins: bool):
        super().__init__()
        self.depth, self.begins = depth, begins

    def read(self, state: State) -> tuple[Tensor, Any]:
        return self.depth(state), state

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        if self.begins:
            return torch.cat((kept, delta[:, :, None]), 2)
        return torch.cat((kept[:, :, :-1], kept[:, :, -1:] + delta[:, :, None]), 2)
