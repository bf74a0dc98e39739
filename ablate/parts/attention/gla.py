"""Gated linear attention, a token mixer."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer
from ablate.parts.scan import by_head, wide
from ablate.registry import Factory, Part, attention, use
from ablate.spec import Shape


@attention("gla", paper="arXiv:2312.06635")
class GatedLinearAttention(RecurrentMixer):
    """S_t = Diag(a_t) S_{t-1} + k_t v_t', o_t = S_t' q_t / sqrt(D), y = out(norm(o) * silu(gate x)), with
    a = sigmoid(W_up W_down x + c)^(1/temperature) (Yang et al. 2023, section 4.2 and eq. 3).

    The paper's keys have half of the width of its values; here both default to the width of a head.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        key_width: Annotated[int, Gt(0)] | None = None,
        value_width: Annotated[int, Gt(0)] | None = None,
        gate_rank: Annotated[int, Gt(0)] = 16,
        temperature: Annotated[float, Gt(0)] = 16.0,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C, H = shape.width, shape.heads
        D, V = key_width or shape.head_width, value_width or shape.head_width
        self.key_width, self.value_width, self.temperature = D, V, temperature
        self.q, self.k, self.v = (Linear(C, H * width, bias=False) for width in (D, D, V))
        self.forget_down, self.forget_up = Linear(C, gate_rank, bias=False), Linear(gate_rank, H * D)
        self.gate = Linear(C, H * V, bias=False)
        self.norm = norm(V)
        self.out = Linear(H * V, C, bias=False)
        self.kept(H, H * (2 * D + V))
        self.state_sizes = (H * D * V,)
        self.state_products = 2 * H * D * V

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k = (by_head(project(x), self.key_width) for project in (self.q, self.k))
        v = by_head(self.v(x), self.value_width)
        log_decay = F.logsigmoid(wide(self.forget_up(self.forget_down(x)))) / self.temperature
        o = view.scan(n, q * self.key_width**-0.5, k, v, by_head(log_decay, self.key_width))
        o = self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2)
        y: Tensor = self.out(o * F.silu(self.gate(x)))
        return y
