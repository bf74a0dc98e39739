"""Softmax attention with a Canon layer on queries, keys and values, a token mixer."""

from typing import Annotated, Any, Literal

from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext
from ablate.parts.canon import STATES, Canon
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


class _Through(nn.Module):
    """Stands where there is no Canon layer."""

    def forward(self, x: Tensor, states: Any, n: int) -> Tensor:
        return x


@attention("canon", paper="https://ssrn.com/abstract=5240330")
class CanonSoftmax(Softmax):
    """Softmax attention with q <- q + conv(q), and so k and v, before norms and positions (Canon-B; Allen-Zhu
    2025, section 4.1).

    conv reads the last `kernel_size` tokens of each channel; `points` says on which of the three it stands
    (Inkling: keys and values). The other options are those of `softmax`. The
    points A and C are `topology=canon`, D is `ffn=canon`.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        kernel_size: Annotated[int, Gt(1)] = 4,
        points: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v"),
        **options: Any,
    ):
        super().__init__(shape, **options)
        widths = {
            "q": self.heads * self.head_width,
            "k": self.kv_heads * self.head_width,
            "v": self.kv_heads * self.value_width,
        }
        self.q_canon, self.k_canon, self.v_canon = (
            Canon(width, kernel_size, f"canon_{name}") if name in points else _Through()
            for name, width in widths.items()
        )

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        states, q, k = view.shared.left.get(STATES), self.q(x), self.k(x)
        v = k if self.shared_values else self.v(x)
        q, k, v = (
            self.q_canon(q, states, n),
            self.k_canon(k, states, n),
            self.v_canon(v, states, n),
        )
        return self.mixed(*self.normed_heads(q, k, v), x, view, n)

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        points = tuple(name for name in ("q", "k", "v") if name in options.points)
        return {**super().canonical(options, layer, model), "points": points}
