"""A decoder laid out for decoding on a CPU, where a step is the reading of all weights and the calling of
some hundred small operators.

In torch's own layout the weights stream at half the speed on some processors (benchmarks/decode.py). For a
single row they are stored by column, for several as the library likes them, and matrices that are given the
same input are joined. The layout is made by the first call and pays after a few; prompts, which are long, are
read by the model itself. Parts are called without hooks, and those that can do with fewer operators do
(`LEAN`). Parts do not know of it: twins stand in their places.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.model.head import Head
from ablate.parts.attention.softmax import Softmax
from ablate.parts.linear import INTEL, ONEDNN, Linear, onednn, reorder
from ablate.parts.norm.rmsnorm import RMSNorm
from ablate.parts.position.rope import Rope

JOINED = (("q", "k", "v"), ("gate", "up"))  # layers of a part that are given the same input, in this order
DTYPES = (torch.float32, torch.bfloat16)


def packable(decoder: Decoder) -> bool:
    weight = decoder.embedding.weight
    return weight.device.type == "cpu" and weight.dtype in DTYPES and ONEDNN


def packed(decoder: Decoder) -> Decoder:
    """The same decoder for decoding, beside it. What is no matrix of a linear layer is shared; the matrices
    do not follow later changes, nor do constants made from weights. Ask `packable` first."""
    twin = _twin(decoder)
    return _place(twin, {"head": PackedHead(decoder.head, decoder.embedding.weight)})


def _twin(module: Any) -> Any:
    """The module with twins of its children, and packed matrices for its linear layers. A child with hooks
    stays as it is."""
    if isinstance(module, nn.Dropout | nn.Identity):
        return IDENTITY
    children = {name: child for name, child in module._modules.items() if child is None or _hooked(child)}
    plain = {name: child for name, child in module._modules.items() if name not in children}
    linear = {name: child for name, child in plain.items() if isinstance(child, Linear)}
    children |= {name: _twin(child) for name, child in plain.items() if name not in linear}
    for names in JOINED:
        if all(name in linear for name in names):
            joined = Joined([linear.pop(name) for name in names])
            slices = (Slice(joined, n) for n in range(1, len(names)))
            children |= zip(names, (joined, *slices), strict=True)
    children |= {name: Packed(child.weight, child.bias) for name, child in linear.items()}
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


class Layout:
    """y = x W' + b, W the rows of all `weights`. Laid out by the first use."""

    def __init__(self, weights: Sequence[Tensor], bias: Tensor | None):
        self.weights, self.bias = [weight.detach() for weight in weights], bias

    def __call__(self, x: Tensor) -> Tensor:
        if INTEL or x.numel() == x.shape[-1]:
            return F.linear(x, self.columns, self.bias)
        return onednn(x, self.blocks, self.bias)

    @cached_property
    def columns(self) -> Tensor:
        width, sizes = self.weights[0].shape[1], [len(weight) for weight in self.weights]
        columns = self.weights[0].new_empty(width, sum(sizes))
        for part, weight in zip(columns.split(sizes, 1), self.weights, strict=True):
            part.copy_(weight.t())
        return columns.t()

    @cached_property
    def blocks(self) -> Tensor:
        return reorder(torch.cat(self.weights))


class Reader(nn.Module):
    """Sets its attributes as any object does: `nn.Module` looks for parameters, at some microseconds each."""

    __setattr__ = object.__setattr__  # type: ignore[assignment]


class Packed(Reader):
    """A linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.layout = Layout([weight], bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layout(x)


class Joined(Reader):
    """The first of several layers with one input: computes all of them, and gives its own part."""

    def __init__(self, layers: list[Linear]):
        super().__init__()
        bias = None
        if any(layer.bias is not None for layer in layers):
            zero = layers[0].weight.new_zeros
            bias = torch.cat([zero(e.out_features) if e.bias is None else e.bias.detach() for e in layers])
        self.layout = Layout([layer.weight for layer in layers], bias)
        self.sizes = [layer.out_features for layer in layers]
        self.last: list[Any] = [None, ()]  # the input and all outputs of the last call

    def forward(self, x: Tensor) -> Tensor:
        self.last[:] = x, self.layout(x).split_with_sizes(self.sizes, -1)
        return self.last[1][0]


class Slice(Reader):
    """The n-th of the joined layers; the first has computed it from the same input."""

    def __init__(self, joined: Joined, n: int):
        super().__init__()
        self.last, self.n = joined.last, n

    def forward(self, x: Tensor) -> Tensor:
        if x is not self.last[0]:
            raise RuntimeError("joined layers are called in order, with the same input")
        return self.last[1][self.n]


class PackedHead(Reader):
    """The head with its matrix, or the embedding's, packed."""

    def __init__(self, head: Head, embedding: Tensor):
        super().__init__()
        self.packed = Packed(embedding if head.weight is None else head.weight, head.bias)
        self.cap = head.cap

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.cap(self.packed(x))


# ------------------------------------------------------------------- the same in fewer operators


class LeanSoftmax(Softmax):
    """Queries, keys and values are cut from their product by head, not first from each other."""

    q: Any  # Joined

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H, K, D = self.heads, self.kv_heads, self.head_width
        if self.normed != (D, D) or not isinstance(self.q, Joined):
            return super().project(x)
        heads = self.q.layout(x).view(*x.shape[:2], H + 2 * K, D).transpose(1, 2)
        q, k, v = heads.split_with_sizes((H, K, K), 1)
        return self.q_norm(q), self.k_norm(k), v


class LeanRMSNorm(RMSNorm):
    """y = w sqrt(C) x / sqrt(|x|^2 + C eps): four operators, where torch takes eight."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return super().forward(x)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(size, self.least) * self.scaled

    @cached_property
    def least(self) -> Tensor:
        return self.weight.new_tensor((len(self.weight) * self.eps) ** 0.5)

    @cached_property
    def scaled(self) -> Tensor:
        weight = 1 + self.weight if self.offset else self.weight
        return weight.detach() * len(weight) ** 0.5


class LeanRope(Rope):
    """Turns by a product with the matrix of the rotation (eq. 15), made once for all layers."""

    def locate(self, at: Tensor) -> Any:
        where = super().locate(at)
        if at.shape[1] > 1:
            return where
        turn = super().rotate(self.unit.expand(len(at), -1, -1, -1), where).transpose(1, 2)  # (1|B, 1, D, D)
        return turn[0, 0] if len(turn) == 1 else turn

    def rotate(self, x: Tensor, where: Any) -> Tensor:
        if not isinstance(where, Tensor):
            return super().rotate(x, where)
        turn = where if where.dtype == x.dtype else where.to(x.dtype)
        return x @ turn if turn.ndim == 2 else (x.transpose(1, 2) @ turn).transpose(1, 2)

    def scaled(self, device: torch.device) -> tuple[Tensor, float]:
        return self.of_pairs

    @cached_property
    def of_pairs(self) -> tuple[Tensor, float]:
        return super().scaled(torch.device("cpu"))

    @cached_property
    def unit(self) -> Tensor:
        return torch.eye(self.width)[None, :, None]


LEAN: dict[type, type] = {Softmax: LeanSoftmax, RMSNorm: LeanRMSNorm, Rope: LeanRope}
