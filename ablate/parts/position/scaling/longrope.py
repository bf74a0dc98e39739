"""RoPE for long contexts by a divisor for each pair."""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ablate.registry import scaling
from ablate.spec import LayerSpec, ModelSpec, Shape


@scaling("longrope", paper="arXiv:2402.13753")
class LongRoPE:
    """Each pair has a divisor of its own, found by a search: those of `long` where the model's context is
    beyond the trained one, those of `short` where it is not; q.k grows by 1 + ln(factor) / ln(trained).

    Ding et al. 2024, section 3; Phi-3's code. No list is a list of ones. The model chooses once, by its
    context; transformers chooses by the length of each call, so its cached keys may be turned by others.
    """

    def __init__(
        self,
        shape: Shape,
        rotary_dim: int,
        base: float,
        *,
        factor: Annotated[float, Ge(1)] = 4.0,
        trained: Annotated[int, Gt(1)] | None = None,
        short: tuple[float, ...] = (),
        long: tuple[float, ...] = (),
        attention_factor: Annotated[float, Gt(0)] | None = None,
    ):
        context = trained or shape.context / factor
        self.divisors = (long if shape.context > context else short) or (1.0,) * (rotary_dim // 2)
        self.attention_factor = attention_factor or math.sqrt(
            1 + math.log(factor) / math.log(max(context, 2))
        )

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        divisors = torch.tensor(self.divisors, device=frequency.device, dtype=frequency.dtype)
        return frequency / divisors, self.attention_factor

    @staticmethod
    def check(options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        width = getattr(layer.position, "head_width", None) or model.shape().head_width
        pairs = int(width * getattr(layer.position, "rotary_fraction", 1.0)) // 2
        return [
            f"{name} has {len(divisors)} divisors, and {pairs} pairs turn"
            for name, divisors in (("short", options.short), ("long", options.long))
            if divisors and len(divisors) != pairs
        ] + [
            f"{name} has a divisor that is not above 0"
            for name, divisors in (("short", options.short), ("long", options.long))
            if any(divisor <= 0 for divisor in divisors)
        ]
