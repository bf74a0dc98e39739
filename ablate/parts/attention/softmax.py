from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ablate.parts.base import LayerContext, Mask, Scores
from ablate.parts.linear import Linear
from ablate.parts.mixer import KeyValueMixer
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

Projection = Literal["q", "k", "v", "out"]


@attention("softmax", paper="arXiv:1706.03762")
class Softmax(KeyValueMixer):
    """softmax(q k' scale) v over `heads` query heads and `kv_heads` key-value heads.

    Multi-head (kv_heads null: as many as heads; Vaswani et al. 2017), multi-query (1; Shazeer 2019) and
    grouped-query (between; Ainslie et al. 2023) are one class. `window` counts the keys seen, the token
    included; `sink_tokens` keys stay visible outside of it; `sink_logit` is a learned logit in the
    denominator (gpt-oss); `softcap` is s tanh(x/s) (Gemma 2); `scale` defaults to 1/sqrt(D).
    `qk_norm` stands over each head or the whole width, before the position.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        kv_heads: Annotated[int, Gt(0)] | None = None,
        window: Annotated[int, Gt(0)] | None = None,
        sink_tokens: Annotated[int, Ge(0)] = 0,
        sink_logit: bool = False,
        softcap: Annotated[float, Gt(0)] | None = None,
        scale: Annotated[float, Gt(0)] | None = None,
        qk_norm: Annotated[Factory, Part("norm")] = use("none"),
        qk_norm_over: Literal["head", "width"] = "head",
        bias: tuple[Projection, ...] = (),
        mask: Literal["causal", "prefix"] = "causal",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ):
        super().__init__()
        C, D, H = shape.width, shape.head_width, shape.heads
        K = kv_heads or H
        self.heads, self.kv_heads, self.head_width = H, K, D
        self.key_width = self.value_width = D
        self.q = Linear(C, H * D, bias="q" in bias)
        self.k = Linear(C, K * D, bias="k" in bias)
        self.v = Linear(C, K * D, bias="v" in bias)
        self.out = Linear(H * D, C, bias="out" in bias)
        over = {"head": (D, D), "width": (H * D, K * D)}[qk_norm_over]
        self.q_norm, self.k_norm = qk_norm(over[0]), qk_norm(over[1])
        self.normed = over
        if sink_logit:
            self.sink = nn.Parameter(torch.zeros(H))
        self.constants = {"sink": 0.0}
        self.softcap, self.scale, self.dropout = softcap, scale or D**-0.5, dropout
        self.mask = Mask(window, sink_tokens, prefix=mask == "prefix")

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        scores = Scores(self.scale, self.softcap, self.sink)
        y: Tensor = self.out(self.attend(*self.project(x), view, n, scores))
        return y

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B,H,T,D), k and v (B,K,T,D)."""
        B, T, _ = x.shape
        q = self.q_norm(self.q(x).view(B, T, -1, self.normed[0]))
        k = self.k_norm(self.k(x).view(B, T, -1, self.normed[1]))
        q, k, v = (y.reshape(B, T, -1, self.head_width).transpose(1, 2) for y in (q, k, self.v(x)))
        return q, k, v

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        shape = model.shape()
        return {
            "bias": tuple(name for name in get_args(Projection) if name in options.bias),
            "kv_heads": None if options.kv_heads == shape.heads else options.kv_heads,
            "scale": None if options.scale == shape.head_width**-0.5 else options.scale,
        }

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = []
        heads = model.heads
        if heads % (options.kv_heads or heads):
            wrong.append(f"kv_heads {options.kv_heads} does not divide heads {heads}")
        if options.sink_tokens and options.window is None:
            wrong.append("sink_tokens keeps keys outside of a window, and there is no window")
        return wrong
