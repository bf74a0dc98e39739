"""A larger base, so that long waves are stretched most."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from ablate.registry import scaling
from ablate.spec import LayerSpec, ModelSpec, Shape


@scaling(
    "ntk",
    paper="https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5/ntkaware_scaled_rope_allows_llama_models_to_have/",
)
class NTK:
    """base' = base factor^(R/(R-2)) for R turned channels: the fastest pair stays, the slowest turns
    `factor` times slower (NTK-aware; bloc97 2023, and YaRN, arXiv:2309.00071, definition 1). Pair n of
    the frequencies is divided by factor^(2n/(R-2))."""

    def __init__(self, shape: Shape, rotary_dim: int, base: float, *, factor: Annotated[float, Ge(1)] = 4.0):
        self.factor, self.rotary_dim = factor, rotary_dim

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        exponent = torch.arange(0, self.rotary_dim, 2, device=frequency.device) / (self.rotary_dim - 2)
        return frequency / self.factor**exponent, 1.0

    @staticmethod
    def check(options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        rotary_dim = int(model.shape().head_width * getattr(layer.position, "rotary_fraction", 1.0))
        if rotary_dim < 4:
            return [f"divides by the turned channels less 2, and {rotary_dim} turn (head width x fraction)"]
        return []
