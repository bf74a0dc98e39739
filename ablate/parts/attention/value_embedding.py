"""Value embedding, a token mixer."""

from typing import Any

import torch
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext
from ablate.registry import attention
from ablate.spec import Shape


@attention("value_embedding", paper="https://github.com/KellerJordan/modded-nanogpt")
class ValueEmbedding(Softmax):
    """Softmax attention with the values v + g E[token], E a table of the layer's own (modded-nanogpt).

    g is one number for each key-value head and starts at `start`. The other options are those of `softmax`.
    """

    def __init__(self, shape: Shape, *, start: float = 1.0, **options: Any):
        super().__init__(shape, **options)
        self.values = nn.Embedding(shape.vocab, self.kv_heads * self.value_width)
        self.share = nn.Parameter(torch.empty(self.kv_heads, 1, 1))
        self.constants = {**self.constants, "share": start}

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k, v = self.project(x)
        looked_up = self.values(view.shared["tokens"]).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        return self.mixed(q, k, v + (self.share * looked_up).to(v.dtype), x, view, n)
