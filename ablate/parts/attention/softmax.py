"""Softmax attention, with grouped keys, windows, gates, sinks and norms as options."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ablate.parts.base import LayerContext, Mask, Scores
from ablate.parts.linear import Linear
from ablate.parts.mixer import KeyValueMixer, gated
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

_Projection = Literal["q", "k", "v", "out"]


@attention("softmax", paper="arXiv:1706.03762")
class Softmax(KeyValueMixer):
    """softmax(q k' scale) v over `heads` query heads and `kv_heads` key-value heads.

    Multi-head (kv_heads null: as many as heads; Vaswani et al. 2017), multi-query (1; Shazeer 2019) and
    grouped-query (between; Ainslie et al. 2023) are one class. `window` counts the keys seen, the token
    included; `sink_tokens` keys stay visible outside of it; `sink_logit` is a learned logit in the
    denominator (gpt-oss); `softcap` is s tanh(x/s) (Gemma 2); `scale` defaults to 1/sqrt(D).
    `qk_norm` stands over each head or the whole width, before the position or (`qk_norm_at`) after it
    (HunYuan). `clip_qkv` clamps q, k and v (MPT, DBRX). `chunk` hides the keys of other chunks of so many
    positions (Llama 4). A query at i is multiplied by 1 + a ln(1 + floor((i + 1) / f)), with `temperature` a
    and `temperature_floor` f, the 1 only with `temperature_shift` (Llama 4; without: Ministral 3), or with
    `temperature_form` power by (1 + (i + 1) / f)^a (Beam), with log_above by 1 + a ln max(1, (i + 1) / f)
    (Inkling). Before the output projection, `inner_norm` stands
    over all heads (BitNet), and `gate` multiplies each channel or each head by sigmoid(G x) or another
    activation (arXiv:2505.06708; Laguna: softplus), with `gate_bias` a learned number of each head beside G x
    (Beam). `exclusive` takes a token's own value out of what its heads give: y - (y.v / v.v) v (XSA,
    arXiv:2603.09078). Values have `value_width` channels (null: the width of a head) and are multiplied by
    `value_multiplier` (MiMo-V2); `value_norm` stands over each head of them, and with `shared_values` they
    are what the projection of keys gives (Gemma 4). `head_width` is that of these heads, where it is not the
    model's.
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
        bias: tuple[_Projection, ...] = (),
        mask: Literal["causal", "prefix"] = "causal",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        qk_norm_at: Literal["before", "after"] = "before",
        clip_qkv: Annotated[float, Gt(0)] | None = None,
        chunk: Annotated[int, Gt(0)] | None = None,
        temperature: Annotated[float, Ge(0)] = 0.0,
        temperature_floor: Annotated[int, Gt(0)] = 8192,
        temperature_shift: bool = True,
        inner_norm: Annotated[Factory, Part("norm")] | None = None,
        gate: Literal["channel", "head"] | None = None,
        gate_activation: Annotated[Factory, Part("activation")] | None = None,
        exclusive: bool = False,
        value_width: Annotated[int, Gt(0)] | None = None,
        value_multiplier: Annotated[float, Gt(0)] = 1.0,
        gate_bias: bool = False,
        temperature_form: Literal["log", "power", "log_above"] = "log",
        head_width: Annotated[int, Gt(0)] | None = None,
        value_norm: Annotated[Factory, Part("norm")] | None = None,
        shared_values: bool = False,
    ):
        super().__init__()
        C, D, H = shape.width, head_width or shape.head_width, shape.heads
        K, V = kv_heads or H, value_width or D
        self.heads, self.kv_heads, self.head_width = H, K, D
        self.key_width, self.value_width, self.value_multiplier = D, V, value_multiplier
        self.q = Linear(C, H * D, bias="q" in bias)
        self.k = Linear(C, K * D, bias="k" in bias)
        self.v = nn.Identity() if shared_values else Linear(C, K * V, bias="v" in bias)
        self.shared_values, self.value_norm = shared_values, value_norm(V) if value_norm else nn.Identity()
        self.out = Linear(H * V, C, bias="out" in bias)
        over = {"head": (D, D), "width": (H * D, K * D)}[qk_norm_over]
        before, after = (qk_norm, _no_norm) if qk_norm_at == "before" else (_no_norm, qk_norm)
        self.q_norm, self.k_norm = before(over[0]), before(over[1])
        self.q_placed, self.k_placed = after(D), after(D)
        self.normed = over
        if sink_logit:
            self.sink = nn.Parameter(torch.zeros(H))
        self.gate_bias = nn.Parameter(torch.zeros(H)) if gate_bias else None
        self.constants = {"sink": 0.0, "gate_bias": 0.0}
        self.softcap, self.scale, self.dropout = softcap, scale or D**-0.5, dropout
        self.mask = Mask(window, sink_tokens, prefix=mask == "prefix", chunk=chunk)
        self.clip = nn.Identity() if clip_qkv is None else _Clamped(clip_qkv)
        self.temperature, self.temperature_floor = temperature, temperature_floor
        self.temperature_shift, self.temperature_form = int(temperature_shift), temperature_form
        self.inner_norm = inner_norm(H * V) if inner_norm else nn.Identity()
        self.gate = Linear(C, {"channel": H * V, "head": H}[gate], bias=False) if gate else None
        self.gate_activation = gate_activation() if gate_activation else nn.Sigmoid()
        self.exclusive = exclusive

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return self.mixed(*self.project(x), x, view, n)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """The output (B,T,C) for queries, keys and values of x, as `project` gives them."""
        scores = Scores(self.scale, self.softcap, self.sink)
        heads = self.without_own(self.attend(q, k, v, view, n, scores), v)
        y: Tensor = self.out(self.gated(self.inner_norm(heads), x))
        return y

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B,H,T,D), k (B,K,T,D) and v (B,K,T,V)."""
        q, k = self.q(x), self.k(x)
        return self.normed_heads(q, k, k if self.shared_values else self.v(x))

    def normed_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B,T,H D), k (B,T,K D) and v (B,T,K V) -> as `project` gives them."""
        B, T, _ = q.shape
        q = self.q_norm(q.view(B, T, -1, self.normed[0]))
        k = self.k_norm(k.view(B, T, -1, self.normed[1]))
        widths = (self.head_width, self.head_width, self.value_width)
        q, k, v = (
            self.clip(y).reshape(B, T, -1, width).transpose(1, 2)
            for y, width in zip((q, k, v), widths, strict=True)
        )
        v = self.value_norm(v)
        return q, k, v if self.value_multiplier == 1.0 else self.value_multiplier * v

    def placed_query(self, q: Tensor, view: LayerContext) -> Tensor:
        q = self.q_placed(q)
        return q if not self.temperature else q * self.growth(view).to(q.dtype)

    def growth(self, view: LayerContext) -> Tensor:
        """What the temperature multiplies the queries with, (1|B,1,T,1)."""
        turns = (view.sight.i.clamp(min=0) + self.temperature_shift) / self.temperature_floor
        return GROWTHS[self.temperature_form](turns, self.temperature)[:, None, :, None]

    def placed_key(self, k: Tensor) -> Tensor:
        placed: Tensor = self.k_placed(k)
        return placed

    def gated(self, heads: Tensor, x: Tensor) -> Tensor:
        """heads (B,T,H V), times the gate of each channel or head, from x (B,T,C)."""
        if self.gate is None:
            return heads
        gate = self.gate(x)
        if self.gate_bias is not None:
            gate = (gate.unflatten(-1, (self.heads, -1)) + self.gate_bias[:, None]).flatten(-2)
        return gated(heads, self.gate_activation(gate))

    def without_own(self, heads: Tensor, v: Tensor) -> Tensor:
        """heads (B,T,H V) less their part along the token's own value, v (B,K,T,V)."""
        if not self.exclusive:
            return heads
        y = heads.reshape(*heads.shape[:-1], self.heads, -1)
        own = F.normalize(v.repeat_interleave(self.heads // self.kv_heads, 1).transpose(1, 2), dim=-1)
        return (y - (y * own).sum(-1, keepdim=True) * own).flatten(-2)

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        shape = model.shape()
        width = options.head_width or shape.head_width
        return {
            "bias": tuple(name for name in get_args(_Projection) if name in options.bias),
            "kv_heads": None if options.kv_heads == shape.heads else options.kv_heads,
            "scale": None if options.scale == width**-0.5 else options.scale,
            "value_width": None if options.value_width == width else options.value_width,
            "head_width": None if options.head_width == shape.head_width else options.head_width,
        }

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = []
        heads = model.heads
        if heads % (options.kv_heads or heads):
            wrong.append(f"kv_heads {options.kv_heads} does not divide heads {heads}")
        if options.sink_tokens and options.window is None:
            wrong.append("sink_tokens keeps keys outside of a window, and there is no window")
        if options.chunk and (options.window or options.mask == "prefix"):
            wrong.append("chunk is a mask of its own, beside neither a window nor a prefix")
        if options.qk_norm_at == "after" and options.qk_norm_over == "width":
            wrong.append("after the position qk_norm stands over each head; say qk_norm_over=head")
        if options.gate_activation is not None and options.gate is None:
            wrong.append("gate_activation is of a gate, and gate is null")
        width = options.head_width or model.shape().head_width
        turned = getattr(layer.position, "head_width", None) or model.shape().head_width
        if layer.position.name != "none" and turned != width:
            wrong.append(
                f"has heads of {width}, and position {layer.position.name} turns heads of {turned}; rope has "
                "the option head_width, too"
            )
        if options.shared_values and options.value_width is not None:
            wrong.append("with shared_values a value is a key as projected, and has no width of its own")
        if options.shared_values and "v" in options.bias:
            wrong.append("bias: with shared_values there is no projection of values; leave v out")
        if options.gate_bias and options.gate is None:
            wrong.append("gate_bias is of a gate, and gate is null")
        if options.temperature_form != "log" and not options.temperature:
            wrong.append("temperature_form is of a temperature, and temperature is 0")
        return wrong


GROWTHS: dict[str, Callable[[Tensor, float], Tensor]] = {  # of queries, by their form
    "log": lambda turns, a: 1 + a * torch.log1p(torch.floor(turns)),
    "power": lambda turns, a: torch.exp(a * torch.log1p(turns)),
    "log_above": lambda turns, a: 1 + a * torch.log(turns.clamp(min=1)),
}


def _no_norm(width: int) -> nn.Module:
    return nn.Identity()


class _Clamped(nn.Module):
    """x within the bound on both sides of 0."""

    def __init__(self, bound: float):
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.bound, self.bound)
