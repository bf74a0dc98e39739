"""Transformer-XL's scores by relative position."""

from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Gt, MultipleOf
from torch import Tensor, nn

from ablate.parts.base import Position
from ablate.parts.position.sincos import cos_sin
from ablate.registry import position
from ablate.spec import LayerSpec, ModelSpec, Shape


@position("transformer_xl", paper="arXiv:1901.02860")
class TransformerXL(Position):
    """Content and distance each meet the key with a bias of their own:
    s(i,j) = (q_i + u).k_j + (q_i + v).W r_(i-j), r the sinusoid of the distance.

    Dai et al. 2019, section 3.3. u and v are shared by the layers, W is each layer's. Since r is
    sinusoidal, the second term is a dot product of vectors that know only i or only j, so query and key
    widen and every kernel serves: sum_w a sin((i-j)w) + b cos((i-j)w), with (a, b) = W'(q+v), is
    [a sin iw + b cos iw, b sin iw - a cos iw] . [cos jw, sin jw]. Differs from the paper in that segments are
    not recurrent, and that r has `width` channels (by default those of a head) and not the model's.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        width: Annotated[int, Gt(0), MultipleOf(2)] | None = None,
        base: Annotated[float, Gt(1)] = 10_000.0,
    ):
        super().__init__(shape)
        self.extra_key_dim = width or shape.head_width + shape.head_width % 2
        self.base = base
        self.constants = {"u": 0.0, "v": 0.0}
        self.u = nn.Parameter(torch.zeros(shape.heads, 1, shape.head_width))
        self.v = nn.Parameter(torch.zeros(shape.heads, 1, shape.head_width))
        self.projection = nn.ParameterList(
            [torch.empty(shape.heads, shape.head_width, self.extra_key_dim) for _ in range(shape.depth)]
        )

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        exponent = (
            torch.arange(0, self.extra_key_dim, 2, device=positions.device, dtype=torch.float32)
            / self.extra_key_dim
        )
        return cos_sin(positions[:, None, :, None] * self.base**-exponent)

    def layer(self, n: int) -> "Distance":
        return Distance(self.u, self.v, self.projection[n])

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if any(other.position != layer.position for other in model.layers()):
            return ["keeps a projection for each layer, so every layer must name it; a pattern cannot mix it"]
        return super().check(options, layer, model)


class Distance(NamedTuple):
    """One layer's share of TransformerXL."""

    u: Tensor  # (H,1,D)
    v: Tensor  # (H,1,D)
    projection: Tensor  # (H,D,R)

    def query(self, q: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (w.to(q.dtype) for w in where)
        a, b = ((q + self.v) @ self.projection).chunk(2, -1)
        return torch.cat((q + self.u, a * sin + b * cos, b * sin - a * cos), -1)

    def key(self, k: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        turned = torch.cat([w.to(k.dtype) for w in where], -1)  # (1|B,1,T,R)
        return torch.cat((k, turned.expand(*k.shape[:3], -1)), -1)
