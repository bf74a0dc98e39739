"""A learned vector for each position."""

from torch import Tensor, nn

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import Shape


@position("learned", paper="arXiv:1706.03762")
class Learned(Position):
    """A vector for each position, added to the embedding (Vaswani et al. 2017, section 3.5; GPT-2)."""

    acts_on_embedding = True
    relative = False

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.max_positions = shape.context
        self.table = nn.Embedding(shape.context, shape.width)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        placed: Tensor = x + self.table(positions.clamp(min=0))  # padding stands before 0
        return placed
