"""Mamba2, a token mixer."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import by_head, softplus, wide
from ablate.parts.time_scale import decay_rates, time_scales
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("mamba2", paper="arXiv:2405.21060")
class Mamba2(RecurrentMixer):
    """S_t = exp(-d_t e^A) S_{t-1} + d_t B_t u_t', o_t = S_t' C_t + D u_t, y = out(norm(o * silu(gate x)))
    (Dao & Gu 2024, section 7 and figure 6).

    u, B, C = silu(conv(W x)); d = softplus(W_d x + c). `expand` times the width are the channels of u, in
    heads of `head_width`; `groups` have a B and a C, shared by their heads, and a norm. No step is below
    `least_step` (Nemotron-H).
    There are as many heads as that makes, whatever `model.heads` is.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        expand: Annotated[float, Gt(0)] = 2.0,
        head_width: Annotated[int, Gt(0)] = 64,
        state_width: Annotated[int, Gt(0)] = 128,
        groups: Annotated[int, Gt(0)] = 1,
        convolution: Annotated[int, Ge(1)] = 4,
        convolution_bias: bool = True,
        bias: bool = False,
        least_step: Annotated[float, Ge(0)] = 0.0,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C, inner = shape.width, round(expand * shape.width)
        H, G, P, N = inner // head_width, groups, head_width, state_width
        self.groups, self.head_width, self.state_width = G, P, N
        self.shared, self.least_step = H // G, least_step
        self.gate, self.u = Linear(C, inner, bias=bias), Linear(C, inner, bias=bias)
        self.key, self.query = Linear(C, G * N, bias=bias), Linear(C, G * N, bias=bias)
        self.step = Linear(C, H, bias=bias)
        self.u_conv = ShortConvolution(inner, convolution, convolution_bias)
        self.key_conv = ShortConvolution(G * N, convolution, convolution_bias)
        self.query_conv = ShortConvolution(G * N, convolution, convolution_bias)
        self.log_rate, self.time_bias = nn.Parameter(torch.empty(H)), nn.Parameter(torch.empty(H))
        self.skip = nn.Parameter(torch.empty(H))
        self.starts = {"log_rate": decay_rates, "time_bias": time_scales}
        self.constants = {"skip": 1.0}
        self.norms = nn.ModuleList(norm(inner // G) for _ in range(G))
        self.out = Linear(inner, C, bias=bias)
        widths = inner + 2 * G * N
        self.kept(H, inner + 2 * G * N, widths)
        self.state_sizes = (H * N * P, (convolution - 1) * widths)
        self.state_products = 2 * H * N * P + convolution * widths

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        u = by_head(F.silu(self.u_conv(self.u(x), view, n, "u")), self.head_width)
        k = by_head(F.silu(self.key_conv(self.key(x), view, n, "k")), self.state_width)
        q = by_head(F.silu(self.query_conv(self.query(x), view, n, "q")), self.state_width)
        if self.groups > 1:  # those of a single group are broadcast, so their products are made once
            q, k = (y.repeat_interleave(self.shared, 1) for y in (q, k))
        step = by_head(self.bounded(softplus(wide(self.step(x)) + self.time_bias)), 1)
        log_decay = -step * self.log_rate.exp()[:, None, None]
        o = view.scan(n, q, k, step * u, log_decay) + self.skip[:, None, None] * u
        gated = o.transpose(1, 2).flatten(2).to(x.dtype) * F.silu(self.gate(x))
        normed = [norm(part) for norm, part in zip(self.norms, gated.chunk(self.groups, -1), strict=True)]
        y: Tensor = self.out(torch.cat(normed, -1))
        return y

    def bounded(self, step: Tensor) -> Tensor:
        """The steps, none below the least."""
        return step.clamp(min=self.least_step) if self.least_step else step

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        inner = round(options.expand * model.width)
        if inner % options.head_width:
            wrong.append(f"head_width {options.head_width} does not divide expand x width, {inner}")
        elif inner // options.head_width % options.groups:
            wrong.append(f"groups {options.groups} does not divide the {inner // options.head_width} heads")
        return wrong
