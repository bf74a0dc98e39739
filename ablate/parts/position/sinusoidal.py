"""Sines and cosines of the position, added to the embedding."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ablate.parts.base import Position
from ablate.parts.position.sincos import cos_sin
from ablate.registry import position
from ablate.spec import LayerSpec, ModelSpec, Shape


@position("sinusoidal", paper="arXiv:1706.03762")
class Sinusoidal(Position):
    """Sines and cosines of the position, added to the embedding: channel 2n of C receives
    sin(at base^(-2n/C)), channel 2n+1 the cosine (Vaswani et al. 2017, section 3.5).

    `halves` puts all sines before all cosines, as the authors' code does: the same up to the order of
    channels. `offset` is added to positions, and with `inclusive` the exponent reaches 1, 2n/(C-2), as in
    fairseq's code (XGLM). The paper scales the embedding by sqrt(C) (`model.embedding.scale=sqrt_width`).
    """

    acts_on_embedding = True
    relative = False

    def __init__(
        self,
        shape: Shape,
        *,
        base: Annotated[float, Gt(1)] = 10_000.0,
        halves: bool = False,
        offset: Annotated[int, Ge(0)] = 0,
        inclusive: bool = False,
    ):
        super().__init__(shape)
        self.base, self.halves, self.offset = base, halves, offset
        self.inclusive = inclusive

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        C = x.shape[-1]
        last = C - 2 if self.inclusive else C
        exponent = torch.arange(0, C, 2, device=x.device, dtype=torch.float32) / last
        cos, sin = cos_sin((positions + self.offset)[..., None] * self.base**-exponent)  # (1|B, T, C/2)
        code = torch.cat((sin, cos), -1) if self.halves else torch.stack((sin, cos), -1).flatten(-2)
        return x + code.to(x.dtype)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if model.width % 2:
            wrong.append(f"pairs a sine with a cosine, but width {model.width} is odd")
        if options.inclusive and model.width < 4:
            wrong.append(f"inclusive divides by width - 2, and width is {model.width}")
        return wrong
