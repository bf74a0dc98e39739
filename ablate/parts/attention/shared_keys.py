"""Shared keys, a token mixer."""

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext, Position, Scores
from ablate.parts.mixer import MixerCosts
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("shared_keys", paper="arXiv:2405.12981")
class SharedKeys(Softmax):
    """Softmax attention to the keys and values of an earlier layer, `source` (Brandon et al. 2024, CLA; Gemma
    3n, YOCO). It has queries and an output of its own, and stores nothing.

    The source is softmax attention with the same position, mask and key-value heads. The other options are
    those of `softmax`; what acts on keys and values acts in the source.
    """

    def __init__(self, shape: Shape, *, source: Annotated[int, Ge(0)] = 0, **options: Any):
        super().__init__(shape, **options)
        self.source = source
        del self.k, self.v, self.k_norm, self.k_placed, self.value_norm

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        q = self.by_head(self.clip(self.q_norm(self.q(x).unflatten(-1, (-1, self.normed[0])))))
        k, v = view.shared["keys", self.source]
        heads = self.read(q, k, v, view, n, Scores(self.scale, self.softcap, self.sink))
        y: Tensor = self.out(self.gated(self.inner_norm(heads), x))
        return y

    def by_head(self, x: Tensor) -> Tensor:
        """(B,T,*,*) -> (B,H,T,D)."""
        return x.reshape(*x.shape[:2], -1, self.head_width).transpose(1, 2)

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        return super().costs(position, tokens, value_bytes)._replace(token_bytes=0, row_bytes=0)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        layers = model.layers()
        own = [n for n, other in enumerate(layers) if other == layer]
        if own and options.source >= own[0]:
            return [*wrong, f"source {options.source} is not before layer {own[0]}, which reads from it"]
        source = layers[options.source]
        if source.attention.name not in ("softmax", "value_residual"):
            return [*wrong, f"source {options.source} is {source.attention.name}, which has no keys to share"]
        if source.position != layer.position:
            wrong.append(f"source {options.source} has another position")
        for field in ("kv_heads", "head_width", "value_width", "window", "sink_tokens", "mask", "chunk"):
            if getattr(source.attention, field) != getattr(options, field):
                wrong.append(f"source {options.source} has another {field}")
        if options.value_multiplier != 1.0 or options.value_norm is not None or options.shared_values:
            wrong.append("value_multiplier, value_norm and shared_values are of the source's values")
        if options.exclusive:
            wrong.append("exclusive takes out a token's own value, and the values are the source's")
        if "k" in options.bias or "v" in options.bias:
            wrong.append("bias: keys and values are the source's; leave k and v out")
        return wrong
