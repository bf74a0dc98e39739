"""Attention to a compressed vector, from which each head makes its keys and values."""

from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ablate.parts.base import KernelRequirements, LayerContext, LayerPosition, Mask, Position, Scores
from ablate.parts.linear import Linear
from ablate.parts.mixer import KeyValueGroup, KeyValueMixer, MixerCosts, gated, keys_seen
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

LatentProjection = Literal["q", "kv", "out"]


@attention("mla", paper="arXiv:2405.04434")
class LatentAttention(KeyValueMixer):
    """c = norm(W_c x), [k_h, v_h] = U_h c, r = turned(W_r x): head h attends with [q, turned(q')] to the
    keys [k_h, r] and the values v_h (multi-head latent attention; DeepSeek-AI 2024, section 2.1).

    The position turns the `head_width` channels of q' and r, which all heads share; beside them a key has
    `key_width` channels and a value `value_width` (null: the width of a head). c has `kv_rank` (null:
    four times the width of a head), and q = W_q norm(D x) goes through `q_rank` (null: q = W_q x). The memory
    holds c and r alone. A single token attends to them as they are, with U_h moved to the query and the
    output. `scale` defaults to one over the square root of a key's whole width. `gate` multiplies what each
    head or channel gives by sigmoid(G x), before the output projection (Ling 3). With `raw_query` queries are
    made of [norm(D x), D x], and `gate_of` query makes the gate of what queries are made of (A.X K2).
    `turned_norm` stands over r before it turns; `heads` is the number of these heads, where it is not the
    model's, and `window` the number of keys seen (Dots 3 Note). `sink_logit` is a learned logit in the
    denominator (HY-V4).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        kv_rank: Annotated[int, Gt(0)] | None = None,
        q_rank: Annotated[int, Gt(0)] | None = None,
        key_width: Annotated[int, Gt(0)] | None = None,
        value_width: Annotated[int, Gt(0)] | None = None,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
        scale: Annotated[float, Gt(0)] | None = None,
        bias: tuple[LatentProjection, ...] = (),
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        gate: Literal["channel", "head"] | None = None,
        gate_of: Literal["input", "query"] = "input",
        raw_query: bool = False,
        turned_norm: Annotated[Factory, Part("norm")] | None = None,
        heads: Annotated[int, Gt(0)] | None = None,
        window: Annotated[int, Gt(0)] | None = None,
        sink_logit: bool = False,
    ):
        super().__init__()
        C, H, R = shape.width, heads or shape.heads, shape.head_width
        N, V, rank = key_width or R, value_width or R, kv_rank or 4 * R
        self.heads = self.kv_heads = H
        self.own_heads = None if shape.heads == H else H
        self.plain_width, self.turned_width, self.rank = N, R, rank
        self.key_width, self.value_width = N + R, V
        self.q_down = Linear(C, q_rank, bias="q" in bias) if q_rank else nn.Identity()
        self.q_norm = norm(q_rank) if q_rank else nn.Identity()
        self.raw_query, self.gate_of, self.query_rank = raw_query, gate_of, q_rank or C
        read = (1 + raw_query) * self.query_rank  # what queries are made of
        self.q_up = Linear(read, H * (N + R), bias=False) if q_rank else nn.Identity()
        self.q = nn.Identity() if q_rank else Linear(C, H * (N + R), bias=False)
        self.kv_down = Linear(C, rank, bias="kv" in bias)
        self.k_turned = Linear(C, R, bias="kv" in bias)
        self.kv_norm = norm(rank)
        self.kv_up = Linear(rank, H * (N + V), bias=False)
        self.out = Linear(H * V, C, bias="out" in bias)
        if sink_logit:
            self.sink = nn.Parameter(torch.zeros(H))
        self.constants = {"sink": 0.0}
        self.turned_norm = turned_norm(R) if turned_norm else nn.Identity()
        gate_read = C if gate_of == "input" else read
        self.gate = Linear(gate_read, {"channel": H * V, "head": H}[gate], bias=False) if gate else None
        self.mask, self.dropout = Mask(window), dropout
        self.scale = scale or (N + R) ** -0.5

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return self.mixed(self.compressed(x), x, view, n)

    def compressed(self, x: Tensor) -> Tensor:
        """What queries are made of, (B,T,q_rank) or twice as wide; x itself without `q_rank`."""
        raw = self.q_down(x)
        normed: Tensor = self.q_norm(raw)
        return torch.cat((normed, raw), -1) if self.raw_query else normed

    def mixed(self, u: Tensor, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """The output (B,T,C) for queries of u, as `compressed` gives it, and keys and values of x."""
        position = view.position.layer(n)
        q = self.q_up(self.q(u)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        plain, turned = q.split((self.plain_width, self.turned_width), -1)
        turned = position.query(turned, view.where.query)
        latent = self.remembered(x, view, n, position)  # (B,1,S,R + rank)
        attend = self.to_latent if x.shape[1] == 1 else self.to_keys
        heads = attend(plain, turned, latent, view).transpose(1, 2).flatten(2)
        y: Tensor = self.out(self.gated(heads, x if self.gate_of == "input" else u))
        return y

    def gated(self, heads: Tensor, read: Tensor) -> Tensor:
        """heads (B,T,H V), times the gate of each channel or head."""
        return heads if self.gate is None else gated(heads, self.gate(read).sigmoid())

    def remembered(self, x: Tensor, view: LayerContext, n: int, position: LayerPosition) -> Tensor:
        """The turned part and c of all tokens that may be seen."""
        r, c = self.turned_norm(self.k_turned(x)), self.kv_norm(self.kv_down(x))
        latent = torch.cat((r, c), -1)[:, None]

        def turn(latent: Tensor, where: Any) -> Tensor:
            r, c = latent.split((self.turned_width, self.rank), -1)
            return torch.cat((position.key(r, where), c), -1)

        nothing = latent[..., :0]  # values are made of c
        seen: Tensor = view.memory.extend(n, latent, nothing, turn, view.where)[0]
        return seen

    def to_keys(self, plain: Tensor, turned: Tensor, latent: Tensor, view: LayerContext) -> Tensor:
        """plain (B,H,T,N), turned (B,H,T,R) -> (B,H,T,V), by the keys and values of each head."""
        r, c = latent.split((latent.shape[-1] - self.rank, self.rank), -1)
        kv = self.kv_up(c[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = kv.split((self.plain_width, self.value_width), -1)
        k = torch.cat((k, r.expand(-1, self.heads, -1, -1)), -1)
        return self.kernel(torch.cat((plain, turned), -1), k, v, view)

    def to_latent(self, plain: Tensor, turned: Tensor, latent: Tensor, view: LayerContext) -> Tensor:
        """The same without keys and values: q'k = (q U_k') c, and a sum of values is U_v times that of c."""
        up_k, up_v = self.kv_up.weight.view(self.heads, -1, self.rank).split(
            (self.plain_width, self.value_width), 1
        )
        q = torch.cat((turned, plain @ up_k.to(plain.dtype)), -1)
        sums = self.kernel(q, latent, latent, view)[..., -self.rank :]
        y: Tensor = sums @ up_v.to(sums.dtype).mT
        return y

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, view: LayerContext) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return view.kernel(q, k, v, view.prepared, Scores(self.scale, sink=self.sink), dropout)

    def group(self, position: int) -> KeyValueGroup:
        return KeyValueGroup(position, self.mask, self.own_heads)

    def needs(self, position: Position, **facts: Any) -> list[KernelRequirements]:
        by_head = super().needs(position, **facts)[0]
        width = self.rank + self.turned_width + position.extra_key_dim
        in_latent = replace(by_head, kv_heads=1, key_width=width, value_width=width)
        return [by_head] if by_head.training else [by_head, in_latent]

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        extra = position.extra_key_dim
        score = self.heads * (self.key_width + extra + self.value_width)
        in_latent = self.heads * 2 * (self.rank + self.turned_width + extra)
        seen = keys_seen(self.mask, tokens)
        token_bytes = (self.rank + self.turned_width + extra) * value_bytes
        room = self.group(0).memory(tokens).size
        return MixerCosts(
            score * sum(seen) / tokens,
            score * tokens,
            in_latent * seen[-1],
            token_bytes,
            token_bytes * room,
        )

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        R = model.shape().head_width
        whole = (options.key_width or R) + R
        return {
            "bias": tuple(name for name in get_args(LatentProjection) if name in options.bias),
            "kv_rank": None if options.kv_rank == 4 * R else options.kv_rank,
            "key_width": None if options.key_width == R else options.key_width,
            "value_width": None if options.value_width == R else options.value_width,
            "scale": None if options.scale == whole**-0.5 else options.scale,
            "heads": None if options.heads == model.heads else options.heads,
        }

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if "q" in options.bias and options.q_rank is None:
            wrong.append("the bias q is of the projection to q_rank, and q_rank is null")
        if options.raw_query and options.q_rank is None:
            wrong.append("raw_query is of the projection to q_rank, and q_rank is null")
        if options.gate_of == "query" and (options.gate is None or options.q_rank is None):
            wrong.append("gate_of=query makes a gate of compressed queries; it needs gate and q_rank")
        made: Any = layer.position.entry.make
        by_head = made.bias is not None or made.query is not Position.query
        if by_head and options.heads not in (None, model.heads):
            wrong.append(
                f"has {options.heads} heads, and position {layer.position.name} has something for each of "
                f"the model's {model.heads}"
            )
        return wrong
