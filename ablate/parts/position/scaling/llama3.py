"""Llama 3.1's frequencies: long waves are stretched, short ones kept."""

import math
from typing import Annotated, Any

from annotated_types import Ge, Gt
from torch import Tensor

from ablate.registry import scaling
from ablate.spec import LayerSpec, ModelSpec, Shape


@scaling("llama3", paper="arXiv:2407.21783")
class Llama3:
    """Pairs that turn more than `high` times within the trained context stay, those that turn less than
    `low` times are squeezed by the factor, and between the two the frequency goes linearly with the
    turns (Llama 3.1's code, apply_scaling: factor 8, low 1, high 4, trained 8192)."""

    def __init__(
        self,
        shape: Shape,
        rotary_dim: int,
        base: float,
        *,
        factor: Annotated[float, Ge(1)] = 8.0,
        low: Annotated[float, Gt(0)] = 1.0,
        high: Annotated[float, Gt(0)] = 4.0,
        trained: Annotated[int, Gt(0)] | None = None,
    ):
        self.factor, self.low, self.high = factor, low, high
        self.trained = trained or shape.context / factor

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        turns = self.trained * frequency / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequency * (kept + (1 - kept) / self.factor), 1.0

    @staticmethod
    def check(options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if options.low >= options.high:
            return [f"low {options.low} must be less than high {options.high}"]
        return []
