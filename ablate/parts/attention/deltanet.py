"""Deltanet, a token mixer."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import by_head, unit_length, wide
from ablate.registry import Factory, Part, attention, use
from ablate.spec import Shape


@attention("deltanet", paper="arXiv:2406.06484")
class DeltaNet(RecurrentMixer):
    """S_t = (I - b_t k_t k_t') S_{t-1} + b_t k_t v_t', o_t = S_t' q_t, y = out(norm(o)) (Schlag et al. 2021;
    Yang et al. 2024, section 3).

    q, k, v = silu(conv(W x)); queries and keys have length 1, queries are then scaled by 1/sqrt(D);
    b = sigmoid(W_b x), up to 2 with `negative_eigenvalues` (arXiv:2411.12537), which solves parity.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        key_width: Annotated[int, Gt(0)] | None = None,
        value_width: Annotated[int, Gt(0)] | None = None,
        convolution: Annotated[int, Ge(1)] = 4,
        negative_eigenvalues: bool = False,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__()
        C, H = shape.width, shape.heads
        D, V = key_width or shape.head_width, value_width or shape.head_width
        self.key_width, self.value_width = D, V
        self.q, self.k, self.v = (Linear(C, H * width, bias=False) for width in (D, D, V))
        self.b = Linear(C, H, bias=False)
        self.q_conv, self.k_conv, self.v_conv = (ShortConvolution(H * w, convolution) for w in (D, D, V))
        self.norm = norm(V)
        self.out = Linear(H * V, C, bias=False)
        self.reach = 2.0 if negative_eigenvalues else 1.0
        widths = H * (2 * D + V)
        self.kept(H, widths, widths)
        self.state_sizes = (H * D * V, (convolution - 1) * widths)
        self.state_products = 3 * H * D * V + convolution * widths

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q = unit_length(by_head(F.silu(self.q_conv(self.q(x), view, n, "q")), self.key_width))
        k = unit_length(by_head(F.silu(self.k_conv(self.k(x), view, n, "k")), self.key_width))
        v = by_head(F.silu(self.v_conv(self.v(x), view, n, "v")), self.value_width)
        beta = by_head(self.reach * wide(self.b(x)).sigmoid(), 1)
        o = view.scan(n, q * self.key_width**-0.5, k, v, beta.new_zeros(beta.shape), beta)
        y: Tensor = self.out(self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2))
        return y
