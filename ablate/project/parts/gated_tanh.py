"""A feed-forward of one's own: the signature after the `*` is the schema of its options."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.registry import ffn
from ablate.spec import Shape


@ffn("gated_tanh", paper="name the paper or page that the idea comes from")
class GatedTanh(nn.Module):
    """down(tanh(gate x) * up x), x (B,T,C) -> (B,T,C)."""

    def __init__(self, shape: Shape, *, width: Annotated[int, Gt(0)] = 128):
        super().__init__()
        self.gate = Linear(shape.width, width, bias=False)
        self.up = Linear(shape.width, width, bias=False)
        self.down = Linear(width, shape.width, bias=False)

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.gate(x)) * self.up(x))
        return y
