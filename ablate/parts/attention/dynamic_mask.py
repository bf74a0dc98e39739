"""Attention with a learned weight of each key, a token mixer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext, Scores
from ablate.parts.linear import Linear
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("dynamic_mask", paper="arXiv:2508.02124")
class DynamicMask(Softmax):
    """softmax(q k' scale + w) v, w = exp(a softplus(W v)) a number of each key and key-value head (Shi et al.
    2025; Doge), a of each head and W over the values of all heads.

    a starts at 0, where w is 1 and changes nothing. Theirs also hides the keys of least w where a query sees
    more than `keep_window_size`; ours keeps all. The keys that are stored hold w as one more channel.
    `weight_bias` is a bias of W. The other options are those of `softmax`.
    """

    def __init__(self, shape: Shape, *, weight_bias: bool = False, **options: Any):
        super().__init__(shape, **options)
        self.rate = nn.Parameter(torch.empty(self.kv_heads))
        self.weight = Linear(self.kv_heads * self.value_width, self.kv_heads, bias=weight_bias)
        self.constants = {**self.constants, "rate": 0.0}
        self.key_width += 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, view: LayerContext, n: int, scores: Scores) -> Tensor:
        position = view.position.layer(n)

        def turn(k: Tensor, where: Any) -> Tensor:
            plain, w = k.split((self.head_width, 1), -1)
            return torch.cat((self.placed_key(position.key(plain, where)), w), -1)

        k, v = view.memory.extend(n, torch.cat((k, self.weight_of(v)), -1), v, turn, view.where)
        return self.read(q, k, v, view, n, scores)

    def weight_of(self, v: Tensor) -> Tensor:
        """w (B,K,T,1) of the values (B,K,T,V)."""
        steps = F.softplus(self.weight(v.transpose(1, 2).flatten(2)))
        return torch.exp(self.rate.to(v.dtype) * steps).transpose(1, 2)[..., None].to(v.dtype)

    def placed_query(self, q: Tensor, view: LayerContext) -> Tensor:
        """With a channel that meets w, so that the scaled score gets w itself."""
        return F.pad(super().placed_query(q, view), (0, 1), value=1 / self.scale)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.softcap is not None:
            wrong.append("softcap would bend the weights of keys, too; leave it null")
        return wrong
