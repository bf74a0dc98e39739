"""The feed-forward layer of two matrices."""

from typing import Annotated, Any, Literal, get_args

from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.ffn.width import hidden_width, plain_width
from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, ffn, use
from ablate.spec import LayerSpec, ModelSpec, Shape

_Projection = Literal["up", "down"]


@ffn("mlp", paper="arXiv:1706.03762")
class MLP(nn.Module):
    """down(activation(up x)) (Vaswani et al. 2017, eq. 2, there with ReLU and biases)."""

    def __init__(
        self,
        shape: Shape,
        *,
        activation: Annotated[Factory, Part("activation")] = use("gelu"),
        width: Annotated[int, Gt(0)] | None = None,
        ratio: Annotated[float, Gt(0)] = 4.0,
        multiplier: Annotated[float, Gt(0)] = 1.0,
        multiple_of: Annotated[int, Gt(0)] = 1,
        bias: tuple[_Projection, ...] = (),
    ):
        super().__init__()
        hidden = hidden_width(shape.width, width, ratio, multiplier, multiple_of)
        self.up = Linear(shape.width, hidden, bias="up" in bias)
        self.down = Linear(hidden, shape.width, bias="down" in bias)
        self.activation = activation()

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        bias = tuple(name for name in get_args(_Projection) if name in options.bias)
        return {"bias": bias, **plain_width(options, model.width)}
