"""Lightning, a token mixer."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer
from ablate.parts.scan import by_head
from ablate.registry import Factory, Part, attention, use
from ablate.spec import Shape


@attention("lightning", paper="arXiv:2401.04658")
class Lightning(RecurrentMixer):
    """S_t = e^(-s) S_{t-1} + k_t v_t', o_t = S_t' q_t, y = out(norm(o) * sigmoid(gate x)), with
    q, k, v = silu(W x) and the norm over all heads together (Qin et al. 2024; MiniMax-01, arXiv:2501.08313).

    The decay is fixed: s = 2^(-8 h / H) (1 - l / (L - 1)) for head h = 1..H of layer l = 0..L-1, but for
    1e-5, so that later layers forget less.
    """

    def __init__(self, shape: Shape, *, norm: Annotated[Factory, Part("norm")] = use("rmsnorm")):
        super().__init__()
        C, H, D = shape.width, shape.heads, shape.head_width
        self.heads, self.depth, self.head_width = H, shape.depth, D
        self.q, self.k, self.v, self.gate = (Linear(C, H * D, bias=False) for _ in range(4))
        self.norm = norm(H * D)
        self.out = Linear(H * D, C, bias=False)
        self.kept(H, 3 * H * D)
        self.state_sizes = (H * D * D,)
        self.state_products = 2 * H * D * D

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k, v = (by_head(F.silu(project(x)), self.head_width) for project in (self.q, self.k, self.v))
        h = torch.arange(1, self.heads + 1, device=x.device, dtype=q.dtype)
        slope = torch.exp2(-8 * h / self.heads) * (1 - n / (self.depth - 1 + 1e-5) + 1e-5)
        log_decay = -slope[None, :, None, None].expand(*q.shape[:3], 1)
        o = view.scan(n, q, k, v, log_decay).transpose(1, 2).flatten(2).to(x.dtype)
        y: Tensor = self.out(self.norm(o) * self.gate(x).sigmoid())
        return y
