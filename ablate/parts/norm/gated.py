"""A norm whose output passes a gate that is made of it."""

from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, norm, use


@norm("gated", paper="arXiv:2601.22966")
class GatedNorm(nn.Module):
    """y = u sigmoid(U silu(D u)), u = norm(x) (GatedNorm; Qiu et al. 2026). D goes to `rank` channels and U
    back, so that the model can shrink a channel without an outlier elsewhere."""

    def __init__(
        self,
        width: int,
        *,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
        rank: Annotated[int, Gt(0)] = 16,
    ):
        super().__init__()
        self.norm = norm(width)
        self.down, self.up = Linear(width, rank, bias=False), Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        u = self.norm(x)
        y: Tensor = u * self.up(nn.functional.silu(self.down(u))).sigmoid()
        return y
