"""YaRN: waves stretched by how often they turn, and a factor of scores."""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ablate.registry import scaling
from ablate.spec import LayerSpec, ModelSpec, Shape


@scaling("yarn", paper="arXiv:2309.00071")
class YaRN:
    """Pairs that turn often within the trained context stay, those that turn less than once are squeezed
    by the factor, and a ramp leads from one to the other; q.k grows by (0.1 ln(factor) + 1)^2.

    Peng et al. 2023, definition 2 and eq. 22. As in the authors' code, the ramp is linear in the number
    of the pair, between those that turn `fast` and `slow` times (the paper's text: in the turns), rounded
    outwards with `truncate` (gpt-oss: without).
    """

    def __init__(
        self,
        shape: Shape,
        rotary_dim: int,
        base: float,
        *,
        factor: Annotated[float, Ge(1)] = 4.0,
        trained: Annotated[int, Gt(0)] | None = None,
        fast: Annotated[float, Gt(0)] = 32.0,
        slow: Annotated[float, Gt(0)] = 1.0,
        attention_factor: Annotated[float, Gt(0)] | None = None,
        truncate: bool = True,
    ):
        context = trained or shape.context / factor

        def pair(turns: float) -> float:
            """Which pair turns this often within the trained context."""
            return rotary_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

        down, up = (math.floor, math.ceil) if truncate else (float, float)
        self.first = max(down(pair(fast)), 0)
        self.last = max(min(up(pair(slow)), rotary_dim - 1), self.first)
        self.factor = factor
        self.attention_factor = attention_factor or 0.1 * math.log(factor) + 1

    def __call__(self, frequency: Tensor) -> tuple[Tensor, float]:
        n = torch.arange(len(frequency), device=frequency.device, dtype=torch.float32)
        length = self.last - self.first
        squeezed = ((n - self.first) / (length or 0.001)).clamp(0, 1)
        return frequency * (squeezed / self.factor + 1 - squeezed), self.attention_factor

    @staticmethod
    def check(options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if options.slow >= options.fast:
            return [f"slow {options.slow} must be less than fast {options.fast}"]
        return []
