"""Gated deltanet, a token mixer."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import by_head, softplus, unit_length, wide
from ablate.parts.time_scale import decay_rates, time_scales
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("gated_deltanet", paper="arXiv:2412.06464")
class GatedDeltaNet(RecurrentMixer):
    """S_t = a_t (I - b_t k_t k_t') S_{t-1} + b_t k_t v_t', o_t = S_t' q_t, y = out(norm(o) * silu(gate x))
    (Yang et al. 2024, eq. 10 and figure 1).

    q, k, v = silu(conv(W x)); queries and keys have length 1, queries are then scaled by 1/sqrt(D);
    a = exp(-exp(A) softplus(W_a x + c)), b = sigmoid(W_b x). `key_heads` share their queries and keys among
    `value_heads` (Qwen3-Next). With `negative_eigenvalues` b reaches 2 (Grazzi et al. 2024; OLMo Hybrid).

    """

    def __init__(
        self,
        shape: Shape,
        *,
        key_heads: Annotated[int, Gt(0)] | None = None,
        value_heads: Annotated[int, Gt(0)] | None = None,
        key_width: Annotated[int, Gt(0)] | None = None,
        value_width: Annotated[int, Gt(0)] | None = None,
        convolution: Annotated[int, Ge(1)] = 4,
        negative_eigenvalues: bool = False,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C = shape.width
        K = key_heads or shape.heads
        H = value_heads or K
        D = key_width or shape.head_width
        V = value_width or shape.head_width
        self.key_heads, self.key_width, self.value_width = K, D, V
        self.shared = H // K
        self.q, self.k = Linear(C, K * D, bias=False), Linear(C, K * D, bias=False)
        self.v, self.gate = Linear(C, H * V, bias=False), Linear(C, H * V, bias=False)
        self.a, self.b = Linear(C, H, bias=False), Linear(C, H, bias=False)
        self.q_conv = ShortConvolution(K * D, convolution)
        self.k_conv = ShortConvolution(K * D, convolution)
        self.v_conv = ShortConvolution(H * V, convolution)
        self.log_rate = nn.Parameter(torch.empty(H))
        self.time_bias = nn.Parameter(torch.empty(H))
        self.starts = {"log_rate": decay_rates, "time_bias": time_scales}
        self.norm = norm(V)
        self.out = Linear(H * V, C, bias=False)
        self.reach = 2.0 if negative_eigenvalues else 1.0
        widths = 2 * K * D + H * V
        self.kept(H, H * (2 * D + V), widths)
        self.state_sizes = (H * D * V, (convolution - 1) * widths)
        self.state_products = 3 * H * D * V + convolution * widths

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q = by_head(F.silu(self.q_conv(self.q(x), view, n, "q")), self.key_width)
        k = by_head(F.silu(self.k_conv(self.k(x), view, n, "k")), self.key_width)
        v = by_head(F.silu(self.v_conv(self.v(x), view, n, "v")), self.value_width)
        q, k = (unit_length(y).repeat_interleave(self.shared, 1) for y in (q, k))
        log_decay = by_head(-self.log_rate.exp() * softplus(wide(self.a(x)) + self.time_bias), 1)
        beta = by_head(self.reach * wide(self.b(x)).sigmoid(), 1)
        o = view.scan(n, q * self.key_width**-0.5, k, v, log_decay, beta)
        o = self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2)
        y: Tensor = self.out(o * F.silu(self.gate(x)))
        return y

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        shape = model.shape()
        keys = options.key_heads or shape.heads
        return {
            "key_heads": None if options.key_heads == shape.heads else options.key_heads,
            "value_heads": None if options.value_heads == keys else options.value_heads,
            "key_width": None if options.key_width == shape.head_width else options.key_width,
            "value_width": None if options.value_width == shape.head_width else options.value_width,
        }

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        keys = options.key_heads or model.heads
        if (options.value_heads or keys) % keys:
            wrong.append(f"value_heads {options.value_heads} is not a multiple of key_heads {keys}")
        return wrong
