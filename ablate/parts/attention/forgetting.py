"""Forgetting attention, a token mixer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.parts.adding import Adding
from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext, Position
from ablate.parts.linear import Linear
from ablate.parts.mixer import MixerCosts
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("forgetting", paper="arXiv:2503.02130")
class Forgetting(Softmax):
    """softmax(q k' scale + D) v, D_ij = sum_{j < l <= i} log f_l, f_t = sigmoid(w x_t + b) for each head
    (forgetting attention, FoX; Lin et al. 2025, eq. 5 and 7).

    What a head forgets at a token weakens all keys before it, so no position is needed. Gates are in fp32 or
    better, and the memory holds the logarithm of each beside keys and values. The other options are those of
    `softmax`; the paper's Pro block adds an output gate and norms, which are `gate` and `qk_norm` here.
    """

    more_scores = learned_scores = True

    def __init__(self, shape: Shape, **options: Any):
        super().__init__(shape, **options)
        self.forget = Linear(shape.width, self.heads, bias=True)

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return super().forward(x, view._replace(kernel=Adding(view.kernel, self.forgotten(x, view, n))), n)

    def forgotten(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """D, (B,H,T,S): what has been forgotten since each key."""
        gate = self.forget(x).transpose(1, 2)[..., None]  # (B,H,T,1)
        log_f = F.logsigmoid(gate.to(torch.promote_types(x.dtype, torch.float32)))
        seen: Tensor = view.memory.extend(
            (n, "forget"), log_f, log_f[..., :0], lambda f, where: f, view.where
        )[0]
        total = seen.cumsum(2)
        return total[:, :, -x.shape[1] :] - total.mT

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        costs = super().costs(position, tokens, value_bytes)
        gates = self.heads * max(value_bytes, 4)
        return costs._replace(
            token_bytes=costs.token_bytes + gates, row_bytes=costs.row_bytes + gates * tokens
        )

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.window is not None:
            wrong.append(
                "adds up the gates since each key in order, which the memory of a window does not keep"
            )
        if options.mask == "prefix":
            wrong.append("says what was forgotten since a key, and in a prefix keys stand after the query")
        return wrong
