"""Softmax attention with scores of the text by relative position, a token mixer."""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.adding import Adding
from ablate.parts.attention.canon import CanonSoftmax
from ablate.parts.base import LayerContext, Position
from ablate.parts.linear import Linear
from ablate.parts.mixer import MixerCosts
from ablate.registry import attention
from ablate.spec import Shape


@attention("relative_logits", paper="arXiv:1803.02155")
class RelativeLogits(CanonSoftmax):
    """softmax(q k' scale + b) v, b(t,s) = r_t . P[t - s] for each head, with r = R x of `rank` channels. From
    the distance `extent` on, b is 0 (Inkling).

    P holds a number for each distance and channel, and all heads share it. Differs from Shaw et al. (2018,
    eq. 4) in that r is no query, but has a projection of its own, and that far keys get nothing. The
    temperature, if there is one, multiplies b with the query. With `points` keys and values go through a
    short convolution first, as in `canon`. The other options are those of `softmax`.
    """

    more_scores = learned_scores = True

    def __init__(
        self,
        shape: Shape,
        *,
        rank: Annotated[int, Gt(0)] = 16,
        extent: Annotated[int, Gt(0)] = 1024,
        points: tuple[Literal["q", "k", "v"], ...] = (),
        **options: Any,
    ):
        super().__init__(shape, points=points, **options)
        self.rank, self.extent = rank, extent
        self.relative = Linear(shape.width, self.heads * rank, bias=False)
        self.profiles = nn.Parameter(torch.empty(rank, extent))
        self.more_activations = self.heads * extent

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return super().forward(x, view._replace(kernel=Adding(view.kernel, self.by_distance(x, view))), n)

    def by_distance(self, x: Tensor, view: LayerContext) -> Tensor:
        """b, (B,H,T,S), in fp32 or better."""
        wide = torch.promote_types(x.dtype, torch.float32)
        r = self.relative(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        of_distances = (r @ self.profiles.to(r.dtype)).to(wide)  # (B,H,T,extent)
        distance = view.sight.i[:, :, None] - view.sight.j[:, None]  # (1|B,T,S)
        places = distance.clamp(0, self.extent - 1)[:, None].expand(*of_distances.shape[:2], -1, -1)
        far = (distance < 0) | (distance >= self.extent)
        b: Tensor = of_distances.gather(-1, places).masked_fill(far[:, None], 0.0)
        return b * self.growth(view).to(wide) if self.temperature else b

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        """Beside those of `softmax`: each head meets P, which is counted once as a matrix."""
        costs = super().costs(position, tokens, value_bytes)
        more = (self.heads - 1) * self.rank * self.extent
        return costs._replace(
            products=costs.products + more,
            products_unmasked=costs.products_unmasked + more,
            last_products=costs.last_products + more,
        )
