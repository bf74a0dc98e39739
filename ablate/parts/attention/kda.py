"""Kimi delta attention, a token mixer."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import by_head, softplus, unit_length, wide
from ablate.parts.time_scale import decay_rates, time_scales
from ablate.registry import Factory, Part, attention, use
from ablate.spec import Shape


@attention("kda", paper="arXiv:2510.26692")
class KimiDeltaAttention(RecurrentMixer):
    """S_t = (I - b_t k_t k_t') Diag(a_t) S_{t-1} + b_t k_t v_t', o_t = S_t' q_t,
    y = out(norm(o) * sigmoid(G x)) (Kimi Linear, eq. 1 and 10).

    As Gated DeltaNet, with a decay for each channel of a key: a = exp(-exp(A) softplus(F x + c)), A for each
    head. F and G have the rank `gate_rank` (null: the width of a head), or are one matrix each with `full`.
    With `log_decay_floor` f below 0 a decay is bounded: a = exp(f sigmoid(exp(A) (F x + c))) (Ling 3).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        head_width: Annotated[int, Gt(0)] | None = None,
        gate_rank: Annotated[int, Gt(0)] | Literal["full"] | None = None,
        log_decay_floor: Annotated[float, Lt(0)] | None = None,
        convolution: Annotated[int, Ge(1)] = 4,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C, H = shape.width, shape.heads
        D = head_width or shape.head_width
        full, R = gate_rank == "full", C if isinstance(gate_rank, str) else gate_rank or D
        self.head_width, self.log_decay_floor = D, log_decay_floor
        self.q, self.k, self.v = (Linear(C, H * D, bias=False) for _ in range(3))
        self.q_conv, self.k_conv, self.v_conv = (ShortConvolution(H * D, convolution) for _ in range(3))
        self.forget_down, self.gate_down = (
            nn.Identity() if full else Linear(C, R, bias=False) for _ in range(2)
        )
        self.forget_up, self.gate_up = (Linear(R, H * D, bias=False) for _ in range(2))
        self.b = Linear(C, H, bias=False)
        self.log_rate = nn.Parameter(torch.empty(H))
        self.time_bias = nn.Parameter(torch.empty(H * D))
        self.starts = {"log_rate": decay_rates, "time_bias": time_scales}
        self.norm = norm(D)
        self.out = Linear(H * D, C, bias=False)
        self.kept(H, 3 * H * D, 3 * H * D)
        self.state_sizes = (H * D * D, (convolution - 1) * 3 * H * D)
        self.state_products = 3 * H * D * D + convolution * 3 * H * D

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q = unit_length(by_head(F.silu(self.q_conv(self.q(x), view, n, "q")), self.head_width))
        k = unit_length(by_head(F.silu(self.k_conv(self.k(x), view, n, "k")), self.head_width))
        v = by_head(F.silu(self.v_conv(self.v(x), view, n, "v")), self.head_width)
        forget = wide(self.forget_up(self.forget_down(x))) + self.time_bias
        log_decay = self.log_decay(by_head(forget, self.head_width))
        beta = by_head(wide(self.b(x)).sigmoid(), 1)
        o = view.scan(n, q * self.head_width**-0.5, k, v, log_decay, beta)
        o = self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2)
        y: Tensor = self.out(o * self.gate_up(self.gate_down(x)).sigmoid())
        return y

    def log_decay(self, forget: Tensor) -> Tensor:
        """log a for F x + c, (B,H,T,D)."""
        rate = self.log_rate.exp()[:, None, None]
        if self.log_decay_floor is None:
            return -rate * softplus(forget)
        return self.log_decay_floor * (rate * forget).sigmoid()
