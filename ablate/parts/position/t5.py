import math
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import LayerSpec, ModelSpec, Shape


@position("t5", paper="arXiv:1910.10683")
class T5(Position):
    """A learned score for each head and bucket of distance, shared by the layers.

    The first half of the buckets hold one distance each, the others ever wider ranges up to `furthest`
    (Raffel et al. 2020, section 2.1; the decoder's one-sided buckets). T5 itself does not scale q.k; here
    it is scaled, as `attention.scale` says.
    """

    def __init__(
        self, shape: Shape, *, buckets: Annotated[int, Ge(2)] = 32, furthest: Annotated[int, Gt(1)] = 128
    ):
        super().__init__(shape)
        self.buckets, self.furthest = buckets, furthest
        self.table = nn.Embedding(buckets, shape.heads)

    def bias(self, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if h.dim() == 0:  # a kernel asks for one score at a time
            return self.table.weight[self.bucket(i - j), h]
        # The same, with a faster gradient: distances beyond `furthest` share a bucket, so few differ.
        every = torch.arange(self.furthest + 1, device=h.device)
        of_distance = self.table.weight[self.bucket(every)].T  # (H, furthest + 1)
        place = h * len(every) + (i - j).clamp(0, self.furthest)
        return of_distance.flatten().index_select(0, place.flatten()).view_as(place)

    def bucket(self, distance: Tensor) -> Tensor:
        """A key ahead (a prefix) counts as distance 0."""
        distance, exact = distance.clamp(min=0), self.buckets // 2
        growth = torch.log(distance.clamp(min=1) / exact) / math.log(self.furthest / exact)
        wide = exact + (growth * (self.buckets - exact)).long()
        return torch.where(distance < exact, distance, wide.clamp(max=self.buckets - 1))

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.furthest <= options.buckets // 2:
            wrong.append(
                f"furthest {options.furthest} must be beyond the exact buckets ({options.buckets // 2})"
            )
        return wrong
