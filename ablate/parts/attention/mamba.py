"""Mamba, a token mixer."""

from math import ceil
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import softplus, wide
from ablate.parts.starts import uniform
from ablate.parts.time_scale import time_scales
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

KEPT_OF_STATE = 2  # numbers kept of each number of a state, with a block's steps: an estimate


def integers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """log 1, log 2, ..., log N for each channel (S4D-Real; Mamba, section 3.6)."""
    return torch.arange(1, shape[-1] + 1).float().log().expand(shape)


@attention("mamba", paper="arXiv:2312.00752")
class Mamba(RecurrentMixer):
    """h_t = exp(-d_t e^A) h_{t-1} + d_t B_t u_t, o_t = C_t' h_t + D u_t, y = out(o * silu(gate x)), for each
    channel of u apart (Gu & Dao 2023, section 3; figure 3).

    u = silu(conv(W x)); B and C are linear in u, and so is the step d = softplus(W_d E u + c) through
    `step_rank` channels (null: a sixteenth of the width). `expand` times the width are the channels of u,
    each with a state of `state_width` numbers. `norm` stands on E u, B and C (Jamba, arXiv:2403.19887).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        expand: Annotated[float, Gt(0)] = 2.0,
        state_width: Annotated[int, Gt(0)] = 16,
        step_rank: Annotated[int, Gt(0)] | None = None,
        convolution: Annotated[int, Ge(1)] = 4,
        convolution_bias: bool = True,
        bias: bool = False,
        norm: Annotated[Factory, Part("norm")] = use("none"),
    ):
        super().__init__()
        C, E, N = shape.width, round(expand * shape.width), state_width
        R = step_rank or ceil(C / 16)
        self.u, self.gate = Linear(C, E, bias=bias), Linear(C, E, bias=bias)
        self.conv = ShortConvolution(E, convolution, convolution_bias)
        self.step_down = Linear(E, R, bias=False)
        self.key, self.query = Linear(E, N, bias=False), Linear(E, N, bias=False)
        self.step_norm, self.key_norm, self.query_norm = norm(R), norm(N), norm(N)
        self.step_up = Linear(R, E)
        self.log_rate, self.skip = nn.Parameter(torch.empty(E, N)), nn.Parameter(torch.empty(E))
        self.starts = {
            "log_rate": integers,
            "step_up.weight": uniform(R**-0.5),
            "step_up.bias": time_scales,
        }
        self.constants = {"skip": 1.0}
        self.out = Linear(E, C, bias=bias)
        self.more_activations = KEPT_OF_STATE * E * N + 4 * E
        self.state_sizes = (E * N, (convolution - 1) * E)
        self.state_products = 2 * E * N + convolution * E  # and one for each rate, which is a matrix

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        u = F.silu(self.conv(self.u(x), view, n, "u"))
        step = softplus(wide(self.step_up(self.step_norm(self.step_down(u)))))[..., None]
        key, query = wide(self.key_norm(self.key(u))), wide(self.query_norm(self.query(u)))
        u = wide(u)
        h = view.accumulate(
            n, (-step * self.log_rate.exp()).exp(), step * u[..., None] * key[..., None, :]
        )  # (B,T,E,N)
        o = (h @ query[..., None])[..., 0] + self.skip * u
        y: Tensor = self.out(o.to(x.dtype) * F.silu(self.gate(x)))
        return y

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        usual = ceil(model.width / 16)
        return {"step_rank": None if options.step_rank == usual else options.step_rank}
