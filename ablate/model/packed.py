"""A decoder laid out for decoding on a CPU, where a step is the reading of all weights and the calling of
some hundred small operators.

In torch's own layout the weights stream at half the speed on some processors (benchmarks/decode.py). There a
single row finds them stored by column, several rows as the library likes them (`Packed`); matrices that are
given the same input are joined. The layout is made by the first call and pays after a few; prompts, which are
long, are read by the model itself. Between two products stands little but calls, so parts are called without
hooks, and those that can do with fewer operators do (`LEAN`). Parts do not know of it: twins stand in their
places. Of a user's own parts only what is known is replaced: a `Linear` by its product alone.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.model.head import Head
from ablate.model.residual import Residual
from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext, Scores
from ablate.parts.connection import Connection
from ablate.parts.ffn.glu import GLU
from ablate.parts.linear import INTEL, ONEDNN, Linear, onednn, reorder
from ablate.parts.norm.none import NoNorm
from ablate.parts.norm.rmsnorm import RMSNorm
from ablate.parts.position.rope import Rope

# Layers of a part that are given the same input, in this order.
JOINED = {Softmax: ("q", "k", "v"), GLU: ("gate", "up")}
_NOTHING = (nn.Identity, nn.Dropout, NoNorm)  # what does nothing in decoding
_DTYPES = (torch.float32, torch.bfloat16)


def packable(decoder: Decoder) -> bool:
    """Whether this processor has packed products for the weights of the decoder."""
    weight = decoder.embedding.weight
    return weight.device.type == "cpu" and weight.dtype in _DTYPES and ONEDNN


def packed(decoder: Decoder) -> Decoder:
    """The same decoder for decoding, beside it. What is no matrix of a linear layer is shared; the matrices
    do not follow later changes, nor do constants made from weights. Ask `packable` first."""
    twin = _twin(decoder)
    beside: Decoder = _place(twin, {"head": PackedHead(decoder.head, decoder.embedding.weight)})
    return beside


def _twin(module: Any) -> Any:
    """The module with twins of its children, and packed matrices for its linear layers. A child with hooks
    stays as it is."""
    if type(module) in _NOTHING:
        return IDENTITY
    children = {name: child for name, child in module._modules.items() if child is None or _hooked(child)}
    plain = {name: child for name, child in module._modules.items() if name not in children}
    linear = {name: child for name, child in plain.items() if type(child) is Linear}
    children |= {name: _twin(child) for name, child in plain.items() if name not in linear}
    names = JOINED.get(type(module), ())
    if names and all(name in linear for name in names):
        joined = Joined([linear.pop(name) for name in names])
        slices = (Slice(joined, n) for n in range(1, len(names)))
        children |= zip(names, (joined, *slices), strict=True)
    children |= {name: Packed([child.weight], child.bias) for name, child in linear.items()}
    twin = module.__new__(type(module))
    vars(twin).update(vars(module), _modules=dict.fromkeys(module._modules))  # in their order
    return _place(twin, children)


def _place(twin: Any, children: dict[str, Any]) -> Any:
    """Give the module its children, which are called directly and found at once: `nn.Module` looks for hooks
    at each call, and finds a child or a parameter only where Python has found nothing."""
    for child in children.values():
        if child is not None and not _hooked(child):
            child.__class__ = _direct(LEAN.get(type(child), type(child)))
    twin._modules.update(children)
    vars(twin).update(twin._parameters)
    vars(twin).update({n: list(c) if isinstance(c, nn.ModuleList) else c for n, c in children.items()})
    return twin


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@cache
def _direct(kind: Any) -> type:
    """The class whose call is its forward."""
    return kind if "__call__" in vars(kind) else type(kind.__name__, (kind,), {"__call__": kind.forward})


IDENTITY = nn.Identity()


# ---------------------------------------------------------------------------------------- matrices


class Reader(nn.Module):
    """Sets its attributes as any object does: `nn.Module` looks for parameters, at some microseconds each."""

    __setattr__ = object.__setattr__  # type: ignore[assignment]


class Packed(Reader):
    """y = x W' + b, W the rows of all `weights`, laid out by the first use. Intel's processors read torch's
    own layout at full speed for a single row, so a lone matrix is not copied."""

    def __init__(self, weights: Sequence[Tensor], bias: Tensor | None):
        super().__init__()
        self.weights, self.bias = [weight.detach() for weight in weights], bias
        self.weight = self.weights[0]  # parts may read it
        self.width = weights[0].shape[1]

    def product(self, x: Tensor) -> Tensor:
        alone = x.numel() == self.width
        if INTEL:
            return F.linear(x, self.rows if alone else self.columns, self.bias)
        return F.linear(x, self.columns, self.bias) if alone else onednn(x, self.blocks, self.bias)

    forward = product

    @cached_property
    def rows(self) -> Tensor:
        return torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0]

    @cached_property
    def columns(self) -> Tensor:
        sizes = [len(weight) for weight in self.weights]
        columns = self.weights[0].new_empty(self.width, sum(sizes))
        for part, weight in zip(columns.split(sizes, 1), self.weights, strict=True):
            part.copy_(weight.t())
        return columns.t()

    @cached_property
    def blocks(self) -> Tensor:
        return reorder(torch.cat(self.weights))


class Joined(Packed):
    """The first of several layers with one input: computes all of them, and gives its own part."""

    def __init__(self, layers: list[Linear]):
        bias = None
        if any(layer.bias is not None for layer in layers):
            zero = layers[0].weight.new_zeros
            bias = torch.cat([zero(e.out_features) if e.bias is None else e.bias.detach() for e in layers])
        super().__init__([layer.weight for layer in layers], bias)
        self.sizes = [layer.out_features for layer in layers]
        self.last: list[Any] = [None, ()]  # the input and all outputs of the last call

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.all(x)
        self.last[:] = x, outputs
        return outputs[0]

    def all(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each of the layers gives."""
        return self.product(x).split_with_sizes(self.sizes, -1)


class Slice(Reader):
    """The n-th of the joined layers; the first has computed it from the same input."""

    def __init__(self, joined: Joined, n: int):
        super().__init__()
        self.last, self.n = joined.last, n

    def forward(self, x: Tensor) -> Tensor:
        if x is not self.last[0]:
            raise RuntimeError("joined layers are called in order, with the same input")
        y: Tensor = self.last[1][self.n]
        return y


class PackedHead(Reader):
    """The head with its matrix, or the embedding's, packed."""

    def __init__(self, head: Head, embedding: Tensor):
        super().__init__()
        self.packed = Packed([embedding if head.weight is None else head.weight], head.bias)
        self.scaled, self.cap = head.scaled, head.cap

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.cap(self.packed(self.scaled(x)))


# ------------------------------------------------------------------- the same in fewer operators


class LeanSoftmax(Softmax):
    """Queries, keys and values are cut from their product by head, not first from each other. Without norms,
    queries and keys are turned before they are cut, by one product."""

    q: Any  # Joined

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        where, position = view.where, view.position
        if not (self.bare and isinstance(position, LeanRope) and where.new is where.query):
            return super().forward(x, view, n)
        H, K = self.heads, self.kv_heads
        both, v = self.by_head(x).split_with_sizes((H + K, K), 1)
        q, k = position.rotate(both, where.query).split_with_sizes((H, K), 1)
        k, v = view.memory.extend(n, k, v, _turned, where)
        view.shared["keys", n] = k, v
        heads = view.kernel(q, k, v, view.prepared, self.scores, 0.0)
        y: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return y

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H, K, D = self.heads, self.kv_heads, self.head_width
        if self.normed != (D, D) or not isinstance(self.q, Joined) or self.other_values:
            return super().project(x)
        q, k, v = self.by_head(x).split_with_sizes((H, K, K), 1)
        return self.clip(self.q_norm(q)), self.clip(self.k_norm(k)), self.clip(v)

    def by_head(self, x: Tensor) -> Tensor:
        """(B, H + 2 K, T, D)."""
        product: Tensor = self.q.product(x)
        return product.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)

    @cached_property
    def bare(self) -> bool:
        around = (self.q_norm, self.k_norm, self.q_placed, self.k_placed, self.clip, self.inner_norm)
        extra = self.gate is not None or self.temperature or self.exclusive or self.other_values
        return isinstance(self.q, Joined) and not extra and all(part is IDENTITY for part in around)

    @property
    def other_values(self) -> bool:
        """Values have a width, a norm or a multiplier of their own."""
        plain = self.value_width == self.head_width and self.value_multiplier == 1.0
        return not plain or self.value_norm is not IDENTITY

    @cached_property
    def scores(self) -> Scores:
        return Scores(self.scale, self.softcap, self.sink)


def _turned(k: Tensor, where: Any) -> Tensor:
    """How a memory turns keys that are turned already."""
    return k


class LeanResidual(Residual):
    """x + f(inside(x)) at once, where nothing else stands around the branch."""

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return x + f(self.input_norm(x)) if self.bare else super().forward(x, f)

    @cached_property
    def bare(self) -> bool:
        others = (self.skip, self.output_norm, self.residual_norm, self.dropout)
        kind = type(self.connection)
        plain = kind.read is Connection.read and kind.write is Connection.write
        return plain and all(other is IDENTITY for other in others)


class LeanGLU(GLU):
    """Gate and up are taken from their product at once."""

    gate: Any  # Joined

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        if not isinstance(self.gate, Joined):
            return super().forward(x, aux)
        return self.gated(*self.gate.all(x))


class LeanRMSNorm(RMSNorm):
    """y = w sqrt(C) x / sqrt(|x|^2 + C eps): four operators, where torch takes eight. The length of a single
    row is a plain number, which leaves two."""

    weight: Any

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or self.weight is None:
            return super().forward(x)
        if x.numel() == self.width:
            length = math.hypot(torch.linalg.vector_norm(x).item(), self.least)
            return torch.addcmul(self.zero, x, self.scaled, value=1 / length)
        lengths = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least_of_rows)
        return x / lengths * self.scaled

    @cached_property
    def width(self) -> int:
        return len(self.weight)

    @cached_property
    def least(self) -> float:
        least: float = (self.width * self.eps) ** 0.5
        return least

    @cached_property
    def least_of_rows(self) -> Tensor:
        least: Tensor = self.weight.new_tensor(self.least)
        return least

    @cached_property
    def zero(self) -> Tensor:
        return torch.zeros_like(self.weight)

    @cached_property
    def scaled(self) -> Tensor:
        weight = 1 + self.weight if self.offset else self.weight
        scaled: Tensor = weight.detach() * self.width**0.5
        return scaled


class LeanRope(Rope):
    """Turns by a product with the matrix of the rotation (eq. 15), made once for all layers."""

    def locate(self, at: Tensor) -> Any:
        if at.shape[1] > 1:
            return super().locate(at)
        speeds, straight, crossed = self.plan
        angle = at[..., None] * speeds  # (1|B, 1, D)
        turn = torch.addcmul(straight * angle.cos(), crossed, angle.sin())  # (1|B, D, D)
        return turn[0] if len(turn) == 1 else turn[:, None]

    def rotate(self, x: Tensor, where: Any) -> Tensor:
        if not isinstance(where, Tensor):
            return super().rotate(x, where)
        turn: Tensor = where if where.dtype == x.dtype else where.to(x.dtype)
        return x @ turn if turn.ndim == 2 else (x.transpose(1, 2) @ turn).transpose(1, 2)

    @cached_property
    def plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """How fast each channel turns, and the matrices of what it keeps (times the cosine) and of what it
        gets from the other of its pair (times the sine). Channels that stay turn by 0."""
        frequency, gain = self.scaled(torch.device("cpu"))
        gains = torch.full_like(frequency, gain)
        unit, none = torch.eye(self.width)[None, None], torch.zeros(self.paired)
        straight = super().rotate(unit, (self.spread(gains, gains), none))
        crossed = super().rotate(unit, (none, self.spread(-gains, gains)))
        speeds = F.pad(self.spread(frequency, frequency), (0, self.width - self.paired))
        return speeds, straight[0, 0], crossed[0, 0]


LEAN: dict[type, type] = {
    Softmax: LeanSoftmax,
    GLU: LeanGLU,
    Residual: LeanResidual,
    RMSNorm: LeanRMSNorm,
    Rope: LeanRope,
}
