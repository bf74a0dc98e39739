"""The contract of residual streams: what goes from layer to layer, and how a branch reads and writes it.

A stream may be wider than one vector a token: `State` is whatever its modules agree upon. Letters: B rows,
T tokens, C width, N streams.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from ablate.registry import placement
from ablate.spec import LayerSpec, ModelSpec, Shape

State = Any
Close = Callable[[Tensor, Tensor], Tensor]  # (x, delta) -> what the placement makes of their sum


class Connection(nn.Module):
    """One branch and the stream. This one is the plain sum: x + delta.

    A stream's modules say what they cost beside their matrices, of one token: `more_products`, multiply-adds
    beyond one for each number of a matrix, and `more_activations`, numbers kept for the backward pass.
    """

    more_products: int = 0
    more_activations: int = 0

    def read(self, state: State) -> tuple[Tensor, Any]:
        """What the branch reads, (B,T,C), and what `write` needs."""
        return state, state

    def write(self, kept: Any, delta: Tensor, close: Close) -> State:
        """The stream with what the branch gives, (B,T,C)."""
        return close(kept, delta)


class Copies(nn.Module):
    """(B,T,C) -> (B,T,N,C), all the same: how a stream of N vectors begins."""

    def __init__(self, streams: int):
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, self.streams, -1)


def inverse_rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    """1 / rms over the channels, (..., C) -> (..., 1)."""
    return (x.square().mean(-1, keepdim=True) + eps).rsqrt()


class ResidualStream:
    """Makes the modules of a residual stream; one for a model."""

    closes: ClassVar[bool] = True  # norms and gains of a placement may stand on it

    def __init__(self, shape: Shape):
        self.shape = shape

    def entrance(self) -> nn.Module:
        """Called with the embedding (B,T,C); gives the state before the first layer."""
        return nn.Identity()

    def connection(self, branch: int, first: bool) -> Connection:
        """For the branch of this number, counted over the layers; `first` is the first of its layer."""
        return Connection()

    def exit(self) -> nn.Module:
        """Called with the state after the last layer; gives (B,T,C). It is made after all connections."""
        return nn.Identity()

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        built = placement.build(layer.placement, model.depth)
        if cls.closes or not (built.residual_norm or built.residual_scale != 1.0):
            return []
        return [
            f"is no single sum, so placement {layer.placement.name} has nowhere to stand; say placement=pre"
        ]
