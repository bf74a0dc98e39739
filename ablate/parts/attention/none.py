"""No token mixer: for layers of a feed-forward alone."""

from typing import Any

from torch import Tensor

from ablate.parts.mixer import Mixer, MixerCosts
from ablate.parts.recurrence import RecurrentContext, RecurrentGroup
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("none", paper="arXiv:2504.03624")
class NoMixer(Mixer):
    """y = x: what a layer of a feed-forward alone has for a token mixer (Nemotron-H)."""

    takes_position = False
    absent = True

    def __init__(self, shape: Shape):
        super().__init__()

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> itself."""
        return x

    def group(self, position: int) -> RecurrentGroup:
        """That of recurrent layers, where it leaves nothing."""
        return RecurrentGroup()

    def costs(self, position: Any, tokens: int, value_bytes: int) -> MixerCosts:
        return MixerCosts(0.0, 0.0, 0.0, 0, 0)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if not getattr(layer.topology.entry.make, "one_branch", False):
            wrong.append("leaves a layer of a feed-forward alone; say topology=single for such layers")
        return wrong
