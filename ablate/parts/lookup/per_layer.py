"""Per layer, a lookup."""

from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.lookups import Lookup
from ablate.parts.recurrence import RecurrentContext
from ablate.registry import Factory, Part, lookup, use
from ablate.spec import Shape


@lookup("per_layer", paper="https://developers.googleblog.com/en/introducing-gemma-3n/")
class PerLayer(Lookup):
    """x <- x + norm(W_out (act(W_gate x) * p)) at the end of the layer, p = (norm(W x_0 / sqrt(C)) + sqrt(P)
    E[token]) / sqrt(2), x_0 what was embedded (Gemma 3n and 4).

    Every layer has a table of its own, of `width` numbers P for each token.
    """

    place = "end"

    def __init__(
        self,
        shape: Shape,
        *,
        width: Annotated[int, Gt(0)] = 16,
        activation: Annotated[Factory, Part("activation")] = use("gelu", form="tanh"),
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__(shape)
        C = shape.width
        self.table = nn.Embedding(shape.vocab, width)
        self.projection, self.projection_norm = Linear(C, width, bias=False), norm(width)
        self.gate, self.out = Linear(C, width, bias=False), Linear(width, C, bias=False)
        self.norm, self.activation = norm(C), activation()
        self.of_embedded, self.of_table = C**-0.5, width**0.5

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        of_stream = self.projection_norm(self.projection(view.shared["embedded"]) * self.of_embedded)
        p = (of_stream + self.of_table * self.table(view.shared["tokens"])) * 2**-0.5
        y: Tensor = self.norm(self.out(self.activation(self.gate(x)) * p))
        return y
