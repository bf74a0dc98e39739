"""Differential attention, a token mixer."""

from math import exp
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext, Position, Scores
from ablate.parts.mixer import MixerCosts
from ablate.parts.starts import normal
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


@attention("differential", paper="arXiv:2410.05258")
class Differential(Softmax):
    """o = (1 - s) norm((A_1 - l A_2) [v_1, v_2]), A_i = softmax(q_i k_i' scale), l = exp(q_1.k_1) -
    exp(q_2.k_2) + s with learned vectors `lambda_*` in place of q and k (Ye et al. 2024, eq. 1 to 3).

    Head h of the first half of the heads makes a pair with head h of the second half, and so do key-value
    heads: a pair attends to the values of both. s is `start` in every layer; null: 0.8 - 0.6 exp(-0.3 n) in
    layer n, counted from 0. `norm` stands over the values of a pair, twice the width of a head, and the
    vectors start normal with the deviation 0.1. The other options are those of `softmax`. Differs from the
    paper in that heads keep the width that they have in `softmax`, so parameters are as many.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
        start: float | None = None,
        **options: Any,
    ):
        super().__init__(shape, **options)
        self.start = start
        self.norm = norm(2 * self.value_width)
        for name in LAMBDAS:
            self.register_parameter(name, nn.Parameter(torch.empty(self.head_width)))
        self.starts = {name: normal(0.1) for name in LAMBDAS}

    def read(self, q: Tensor, k: Tensor, v: Tensor, view: LayerContext, n: int, scores: Scores) -> Tensor:
        """q (B,H,T,D), k and v (B,K,S,D) -> (B,T,H D). The values of a pair are read in two calls, since
        fused kernels want them as wide as keys."""
        halves = [half.repeat(1, 2, 1, 1) for half in v.chunk(2, 1)]
        read = [super(Differential, self).read(q, k, half, view, n, scores) for half in halves]
        heads = torch.cat([y.unflatten(-1, (self.heads, -1)) for y in read], -1)  # (B,T,H,2D)
        first, second = heads.chunk(2, 2)
        s = 0.8 - 0.6 * exp(-0.3 * n) if self.start is None else self.start
        y: Tensor = self.norm(first - self.share(s).to(first.dtype) * second)
        return ((1 - s) * y).flatten(2)

    def share(self, s: float) -> Tensor:
        """How much of the second map is taken out, in fp32 or better."""
        given: list[Tensor] = [getattr(self, name) for name in LAMBDAS]
        q_1, k_1, q_2, k_2 = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in given)
        share: Tensor = (q_1 * k_1).sum().exp() - (q_2 * k_2).sum().exp() + s
        return share

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        costs = super().costs(position, tokens, value_bytes)
        return costs._replace(
            products=2 * costs.products,
            products_unmasked=2 * costs.products_unmasked,
            last_products=2 * costs.last_products,
        )

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        heads, kv_heads = model.heads, options.kv_heads or model.heads
        if heads % 2 or kv_heads % 2:
            wrong.append(f"heads stand in pairs, and there are {heads} with {kv_heads} key-value heads")
        if options.exclusive:
            wrong.append("exclusive takes out the value of a head, and here a pair of heads has two")
        if options.gate == "head":
            wrong.append("gate=head is of each head, and a pair gives one output; say gate=channel")
        if options.dropout:
            wrong.append("dropout would fall on the two values of a pair apart; say dropout=0")
        return wrong
