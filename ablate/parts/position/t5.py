"""A learned bias for each bucket of distances."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.base import Position
from ablate.registry import position
from ablate.spec import LayerSpec, ModelSpec, Shape

SCORES_SLICE = 2**22  # scores whose one-hot rows are in memory at once


@position("t5", paper="arXiv:1910.10683")
class T5(Position):
    """A learned score for each head and bucket of distance, shared by the layers.

    The first half of the buckets hold one distance each, the others ever wider ranges up to `max_distance`
    (Raffel et al. 2020, section 2.1; the decoder's one-sided buckets). T5 itself does not scale q.k; here
    it is scaled, as `attention.scale` says.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        num_buckets: Annotated[int, Ge(2)] = 32,
        max_distance: Annotated[int, Gt(1)] = 128,
    ):
        super().__init__(shape)
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = nn.Embedding(num_buckets, shape.heads)

    def bias(self, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if h.dim() == 0:  # a kernel asks for one score at a time
            return self.table.weight[self.bucket(i - j), h]
        if h.is_cuda:
            return looked_up(self.table.weight, self.bucket(i - j).squeeze(-3)).movedim(0, -3)
        # The same, with a faster gradient: distances beyond `max_distance` share a bucket, so few differ.
        every = torch.arange(self.max_distance + 1, device=h.device)
        of_distance = self.table.weight[self.bucket(every)].T  # (H, furthest + 1)
        place = h * len(every) + (i - j).clamp(0, self.max_distance)
        return of_distance.flatten().index_select(0, place.flatten()).view_as(place)

    def bucket(self, distance: Tensor) -> Tensor:
        """A key ahead (a prefix) counts as distance 0."""
        distance, exact = distance.clamp(min=0), self.num_buckets // 2
        growth = torch.log(distance.clamp(min=1) / exact) / math.log(self.max_distance / exact)
        wide = exact + (growth * (self.num_buckets - exact)).long()
        return torch.where(distance < exact, distance, wide.clamp(max=self.num_buckets - 1))

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.max_distance <= options.num_buckets // 2:
            exact_buckets = options.num_buckets // 2
            wrong.append(
                f"max_distance {options.max_distance} must be above the {exact_buckets} exact buckets"
            )
        return wrong


class _LookedUp(torch.autograd.Function):
    """weight[bucket]. Its gradient is the product of the scores' with the one-hot rows of their buckets: a
    GPU would add them one by one, and most are in one bucket."""

    generate_vmap_rule = True  # for several models at once

    @staticmethod
    def forward(weight: Tensor, bucket: Tensor) -> Tensor:
        return weight.T[:, bucket]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        weight, bucket = inputs
        ctx.save_for_backward(bucket)
        ctx.num_buckets = len(weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (bucket,) = ctx.saved_tensors
        every = torch.arange(ctx.num_buckets, device=dy.device)[:, None]
        total = dy.new_zeros(ctx.num_buckets, len(dy))
        for some, of_some in zip(
            bucket.flatten().split(SCORES_SLICE), dy.flatten(1).split(SCORES_SLICE, 1), strict=True
        ):
            total = total + (every == some).to(dy.dtype) @ of_some.T
        return total, None


# (buckets, H), (...) -> (H, ...)
looked_up: Callable[[Tensor, Tensor], Tensor] = _LookedUp.apply
