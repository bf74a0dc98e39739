"""No feed-forward: for layers of a token mixer alone."""

from typing import Any

from torch import Tensor, nn

from ablate.registry import ffn
from ablate.spec import LayerSpec, ModelSpec, Shape


@ffn("none", paper="arXiv:2312.00752")
class NoFeedForward(nn.Module):
    """y = x: what a layer of a token mixer alone has for a feed-forward (Mamba)."""

    absent = True

    def __init__(self, shape: Shape):
        super().__init__()

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        return x

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if getattr(layer.topology.entry.make, "one_branch", False):
            return []
        return ["leaves a layer of a token mixer alone; say topology=single for such layers"]
