"""mLSTM, a token mixer."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.diagonal import highest
from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer
from ablate.parts.scan import by_head
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

CLOSED, LEAST_OPEN, MOST_OPEN = -10.0, 3.0, 6.0  # biases of the gates at the start (arXiv:2503.13427)


@attention("mlstm", paper="arXiv:2405.04517")
class MatrixLSTM(RecurrentMixer):
    """C_t = f_t C_{t-1} + e^(i_t) k_t v_t', n_t = f_t n_{t-1} + e^(i_t) k_t,
    h_t = C_t' q_t / max(|n_t' q_t|, 1), y = out(norm(h) * sigmoid(gate x)) (xLSTM, Beck et al. 2024, eq. 19
    to 27; as in xLSTM 7B, arXiv:2503.13427, without a convolution).

    i and log f = log sigmoid(.) are linear in x, soft-capped at `gate_softcap`; q is divided by sqrt(D). The
    authors divide both by e^m, with m_t = max(log f_t + m_{t-1}, i_t) from 0 on, and then add `eps` to the
    divisor; here it is eps e^m. `key_width` defaults to half of a head. Each head has a norm of its own.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        key_width: Annotated[int, Gt(0)] | None = None,
        value_width: Annotated[int, Gt(0)] | None = None,
        gate_softcap: Annotated[float, Gt(0)] = 15.0,
        eps: Annotated[float, Ge(0)] = 1e-6,
        norm: Annotated[Factory, Part("norm")] = use("layernorm", bias=False),
    ):
        super().__init__()
        C, H = shape.width, shape.heads
        D, V = key_width or max(shape.head_width // 2, 1), value_width or shape.head_width
        self.key_width, self.value_width = D, V
        self.gate_softcap, self.eps = gate_softcap, eps
        self.q, self.k = Linear(C, H * D, bias=False), Linear(C, H * D, bias=False)
        self.v, self.gate = Linear(C, H * V, bias=False), Linear(C, H * V, bias=False)
        self.i, self.f = Linear(C, H), Linear(C, H)
        self.starts = {
            "i.bias": lambda sizes, generator: torch.full(sizes, CLOSED),
            "f.bias": lambda sizes, generator: torch.linspace(LEAST_OPEN, MOST_OPEN, sizes[0]),
        }
        self.norms = nn.ModuleList(norm(V) for _ in range(H))
        self.out = Linear(H * V, C, bias=False)
        self.kept(H, H * (2 * D + V))
        self.state_sizes = (H * D * (V + 1), H)
        self.state_products = 2 * H * D * (V + 1)

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k = (by_head(project(x), self.key_width) for project in (self.q, self.k))
        v = by_head(self.v(x), self.value_width)
        i, log_f = by_head(self.capped(self.i(x)), 1), F.logsigmoid(by_head(self.capped(self.f(x)), 1))
        both = i.exp() * torch.cat((v, torch.ones_like(i)), -1)  # C and n side by side
        o, length = view.scan(n, q * self.key_width**-0.5, k, both, log_f).split((self.value_width, 1), -1)
        h = o / (length.abs().clamp(min=1) + self.eps * self.highest(log_f, i, view, n).exp())
        heads = h.transpose(1, 2).to(x.dtype).unbind(2)
        normed = torch.cat([norm(head) for norm, head in zip(self.norms, heads, strict=True)], -1)
        y: Tensor = self.out(normed * self.gate(x).sigmoid())
        return y

    def capped(self, x: Tensor) -> Tensor:
        """c tanh(x / c)."""
        return self.gate_softcap * (x / self.gate_softcap).tanh()

    def highest(self, log_f: Tensor, i: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """m of layer n's tokens, (B,H,T,1); the last is remembered."""
        log_f, i = (gate[..., 0].transpose(1, 2) for gate in (log_f, i))  # (B,T,H)
        m = highest(log_f, i, view.memory.read(n, "highest", torch.zeros_like(i[:, 0])), view.segment)
        view.memory.write(n, "highest", m[:, -1])
        return m.transpose(1, 2)[..., None]

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        usual = model.shape().head_width
        return {
            "key_width": None if options.key_width == max(usual // 2, 1) else options.key_width,
            "value_width": None if options.value_width == usual else options.value_width,
        }
