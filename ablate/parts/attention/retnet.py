"""Retnet, a token mixer."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer
from ablate.parts.scan import by_head
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("retnet", paper="arXiv:2307.08621")
class Retention(RecurrentMixer):
    """S_t = g S_{t-1} + k_t v_t', o_t = S_t' q_t, y = out(norm(o) * silu(gate x)), with
    g = 1 - 2^(-5-h) for head h = 0..H-1 (Sun et al. 2023, eq. 6 to 8).

    Queries and keys are turned by their positions, as by RoPE with base 10000; keys are scaled by 1/sqrt(D).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        value_width: Annotated[int, Gt(0)] | None = None,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C, H, D = shape.width, shape.heads, shape.head_width
        V = value_width or D
        self.heads, self.head_width, self.value_width = H, D, V
        self.q, self.k = Linear(C, H * D, bias=False), Linear(C, H * D, bias=False)
        self.v, self.gate = Linear(C, H * V, bias=False), Linear(C, H * V, bias=False)
        self.norm = norm(V)
        self.out = Linear(H * V, C, bias=False)
        self.kept(H, H * (2 * D + V))
        self.state_sizes = (H * D * V,)
        self.state_products = 2 * H * D * V

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k = (self.turned(by_head(project(x), self.head_width), view) for project in (self.q, self.k))
        v = by_head(self.v(x), self.value_width)
        h = torch.arange(self.heads, device=x.device, dtype=q.dtype)
        log_decay = torch.log1p(-torch.exp2(-5 - h))[None, :, None, None].expand(*q.shape[:3], 1)
        o = view.scan(n, q, k * self.head_width**-0.5, v, log_decay)
        o = self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2)
        y: Tensor = self.out(o * F.silu(self.gate(x)))
        return y

    def turned(self, x: Tensor, view: RecurrentContext) -> Tensor:
        """(B,H,T,D), each pair (2i, 2i+1) turned by its position times 10000^(-2i/D)."""
        even = torch.arange(0, self.head_width, 2, device=x.device, dtype=x.dtype)
        angle = view.positions[:, None, :, None] * 10000 ** (-even / self.head_width)
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    @classmethod
    def check(cls, options: object, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if model.shape().head_width % 2:
            wrong.append(f"turns channels in pairs, and head_width {model.shape().head_width} is odd")
        return wrong
