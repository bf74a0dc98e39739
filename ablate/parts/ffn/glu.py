"""Gated feed-forward layers: SwiGLU, GeGLU and their kin by the activation."""

from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.ffn.width import hidden_width, plain_width
from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, ffn, use
from ablate.spec import LayerSpec, ModelSpec, Shape

_Projection = Literal["gate", "up", "down"]


@ffn("glu", paper="arXiv:2002.05202")
class GLU(nn.Module):
    """down(activation(gate x) * up x) (Shazeer 2020, eq. 4 to 6): GLU with the sigmoid, and by other
    activations ReGLU, GeGLU, SwiGLU (silu) and Bilinear (identity). Three matrices, so the ratio 8/3
    costs what 4 costs an MLP.

    `limit` L clamps: activation(min(gate x, L)) (clip(up x, -L, L) + `up_offset`) (gpt-oss: L = 7, offset 1,
    Swish with beta 1.702). `inner_norm` stands before `down` (BitNet, arXiv:2504.12285). With `learned_scale`
    a learned number, 1 at the start, multiplies what it gives (Inkling).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        activation: Annotated[Factory, Part("activation")] = use("sigmoid"),
        width: Annotated[int, Gt(0)] | None = None,
        ratio: Annotated[float, Gt(0)] = 8 / 3,
        multiplier: Annotated[float, Gt(0)] = 1.0,
        multiple_of: Annotated[int, Gt(0)] = 1,
        bias: tuple[_Projection, ...] = (),
        limit: Annotated[float, Gt(0)] | None = None,
        up_offset: float = 0.0,
        inner_norm: Annotated[Factory, Part("norm")] | None = None,
        learned_scale: bool = False,
    ):
        super().__init__()
        hidden = hidden_width(shape.width, width, ratio, multiplier, multiple_of)
        self.gate = Linear(shape.width, hidden, bias="gate" in bias)
        self.up = Linear(shape.width, hidden, bias="up" in bias)
        self.down = Linear(hidden, shape.width, bias="down" in bias)
        self.activation = activation()
        self.limit, self.up_offset = limit, up_offset
        self.inner_norm = inner_norm(hidden) if inner_norm else nn.Identity()
        self.output_scale = nn.Parameter(torch.ones(1)) if learned_scale else None
        self.constants = {"output_scale": 1.0}

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        return self.gated(self.gate(x), self.up(x))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The two projections (..., hidden) -> (..., C)."""
        gate, up = self.clamped(gate, up)
        y: Tensor = self.down(self.inner_norm(self.activation(gate) * up))
        return y if self.output_scale is None else y * self.output_scale

    def clamped(self, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate, up + self.up_offset if self.up_offset else up

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        bias = tuple(name for name in get_args(_Projection) if name in options.bias)
        return {"bias": bias, **plain_width(options, model.width)}
