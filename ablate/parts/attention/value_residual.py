"""Value residual, a token mixer."""

from typing import Any

import torch
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("value_residual", paper="arXiv:2410.17897")
class ValueResidual(Softmax):
    """Softmax attention with the values v_l + g_l v_1, v_1 those of the first layer that names it (Zhou et
    al. 2024, eq. 5).

    g is one number for each key-value head and starts at `start`. In the first of these layers v_1 is v
    itself. All of them have equal `kv_heads`. The other options are those of `softmax`.
    """

    def __init__(self, shape: Shape, *, start: float = 1.0, **options: Any):
        super().__init__(shape, **options)
        self.share = nn.Parameter(torch.empty(self.kv_heads, 1, 1))
        self.constants = {**self.constants, "share": start}

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q, k, v = self.project(x)
        first = view.shared.setdefault("values", v)
        return self.mixed(q, k, v + self.share.to(v.dtype) * first, x, view, n)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        first: Any = next((o.attention for o in model.layers() if o.attention.name == options.name), options)
        if first.kv_heads != options.kv_heads:
            wrong.append(f"kv_heads {options.kv_heads} differs from that of the first layer of its kind")
        return wrong
