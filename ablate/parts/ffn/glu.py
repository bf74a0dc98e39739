from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.ffn.width import hidden_width
from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, ffn, use
from ablate.spec import Shape


@ffn("glu", paper="arXiv:2002.05202")
class GLU(nn.Module):
    """down(activation(gate x) * up x) (Shazeer 2020, eq. 4 to 6): GLU with the sigmoid, and by other
    activations ReGLU, GeGLU, SwiGLU (silu) and Bilinear (identity). Three matrices, so the ratio 8/3
    costs what 4 costs an MLP."""

    def __init__(
        self,
        shape: Shape,
        *,
        activation: Annotated[Factory, Part("activation")] = use("sigmoid"),
        width: Annotated[int, Gt(0)] | None = None,
        ratio: Annotated[float, Gt(0)] = 8 / 3,
        multiplier: Annotated[float, Gt(0)] = 1.0,
        multiple_of: Annotated[int, Gt(0)] = 1,
        bias: tuple[Literal["gate", "up", "down"], ...] = (),
    ):
        super().__init__()
        hidden = hidden_width(shape.width, width, ratio, multiplier, multiple_of)
        self.gate = Linear(shape.width, hidden, bias="gate" in bias)
        self.up = Linear(shape.width, hidden, bias="up" in bias)
        self.down = Linear(hidden, shape.width, bias="down" in bias)
        self.activation = activation()

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))
