"""The time mixing of RWKV-7, a token mixer."""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer
from ablate.parts.scan import by_head, wide
from ablate.parts.starts import Start
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

LEAST_LOG_DECAY = -math.exp(-0.5)
EARLIER = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}  # exponents of the mixes at the start
FIRST_VALUES = {"removal": 0.71, "replacement": 1.02, "bonus": -0.04, "rate_up.bias": -0.19}


def earlier(exponent: float) -> Start:
    """1 - (c / C)^exponent for channel c: the first channels read the token before, the last the token."""
    return lambda shape, generator: 1 - (torch.arange(shape[0]) / shape[0]) ** exponent


def spread_decays(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """From -5.5, where nearly all is kept, to 0.5."""
    return torch.linspace(-5.5, 0.5, shape[0])


def usual_rank(width: int, times: float) -> int:
    """The multiple of 32 next to so many times the square root of the width, and 32 at least."""
    return max(32, round(times * math.sqrt(width) / 32) * 32)


@attention("rwkv7", paper="arXiv:2503.14456")
class RWKV7(RecurrentMixer):
    """S_t = (Diag(w_t) - (a_t * c_t) c_t') S_{t-1} + k_t v_t', o_t = S_t' r_t,
    y = out(g * (norm(o) + (sum of r * p * k) v)), with c = (q * k) / |q * k|, k <- k (1 + (a - 1) s) (Peng et
    al. 2025, section 4 and appendix G; their S is transposed).

    Each of r, w, k, v, a, g is made of x_t + m (x_{t-1} - x_t), with a learned m for each channel. r, k and v
    are linear; log w = -e^(-1/2) sigmoid(W tanh(W' x) + b), a = sigmoid(A A' x + b) and g = G sigmoid(G' x)
    go through `decay_rank`, `rate_rank` and `gate_rank` channels (null: 2.5, 2.5 and 5 times the square root
    of the width, in 32s). Each head has a norm of its own. Left out: the residual of the first layer's
    values, and starts that differ from layer to layer.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        head_width: Annotated[int, Gt(0)] | None = None,
        decay_rank: Annotated[int, Gt(0)] | None = None,
        rate_rank: Annotated[int, Gt(0)] | None = None,
        gate_rank: Annotated[int, Gt(0)] | None = None,
        norm: Annotated[Factory, Part("norm")] = use("layernorm", eps=6.4e-4),
    ):
        super().__init__()
        C, H, D = shape.width, shape.heads, head_width or shape.head_width
        self.head_width = D
        self.mixes = nn.ParameterDict({name: nn.Parameter(torch.empty(C)) for name in EARLIER})
        self.r, self.k, self.v = (Linear(C, H * D, bias=False) for _ in range(3))
        W, A, G = (
            decay_rank or usual_rank(C, 2.5),
            rate_rank or usual_rank(C, 2.5),
            gate_rank or usual_rank(C, 5),
        )
        self.decay_down, self.rate_down, self.gate_down = (Linear(C, R, bias=False) for R in (W, A, G))
        self.decay_up, self.rate_up = Linear(W, H * D), Linear(A, H * D)
        self.gate_up = Linear(G, H * D, bias=False)
        self.removal, self.replacement, self.bonus = (nn.Parameter(torch.empty(H, 1, D)) for _ in range(3))
        self.starts = {f"mixes.{name}": earlier(exponent) for name, exponent in EARLIER.items()}
        self.starts["decay_up.bias"] = spread_decays
        self.constants = FIRST_VALUES
        self.norms = nn.ModuleList(norm(D) for _ in range(H))
        self.out = Linear(H * D, C, bias=False)
        self.kept(2 * H, 8 * H * D)
        self.state_sizes = (H * D * D, C)
        self.state_products = 4 * H * D * D

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        change = view.earlier(n, "before", x, (0, 1))[0] - x
        mixed = {name: x + change * mix for name, mix in self.mixes.items()}
        projected = self.r(mixed["r"]), self.k(mixed["k"]), self.v(mixed["v"])
        r, k, v = (by_head(y, self.head_width) for y in projected)
        log_decay = LEAST_LOG_DECAY * wide(self.decay_up(self.decay_down(mixed["w"]).tanh())).sigmoid()
        log_decay = by_head(log_decay, self.head_width)
        rate = by_head(wide(self.rate_up(self.rate_down(mixed["a"]))).sigmoid(), self.head_width)
        removed = F.normalize(k * self.removal, dim=-1)
        k = k * (1 + (rate - 1) * self.replacement)
        o = self.scanned(r, k, v, log_decay, removed, rate * removed, view, n)
        normed = [norm(head) for norm, head in zip(self.norms, o.to(x.dtype).unbind(1), strict=True)]
        bonus = (r * k * self.bonus).sum(-1, keepdim=True) * v
        heads = torch.cat(normed, -1) + bonus.transpose(1, 2).flatten(2).to(x.dtype)
        y: Tensor = self.out(heads * self.gate_up(self.gate_down(mixed["g"]).sigmoid()))
        return y

    def scanned(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        removed: Tensor,
        written: Tensor,
        view: RecurrentContext,
        n: int,
    ) -> Tensor:
        """o (B,H,T,D). A token is two steps of a scan. The first decays the state, reads what it was before
        along `removed` and takes that away at `written`; the second adds k v'."""
        nothing = torch.zeros_like(k)

        def steps(first: Tensor, second: Tensor) -> Tensor:
            return torch.stack((first, second), 3).flatten(2, 3)  # (B,H,2T,D)

        o = view.scan(
            n,
            steps(nothing, r),
            steps(written, k),
            steps(nothing, v),
            steps(log_decay, nothing),
            erase=steps(removed * (-log_decay).exp(), nothing),
        )
        return o[:, :, 1::2]

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        ranks = {"decay_rank": 2.5, "rate_rank": 2.5, "gate_rank": 5.0}
        usual = {name: usual_rank(model.width, times) for name, times in ranks.items()}
        usual["head_width"] = model.shape().head_width
        said = {name: getattr(options, name) for name in usual}
        return {name: None if said[name] == usual[name] else said[name] for name in usual}
