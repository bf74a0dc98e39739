"""A decoder laid out for decoding on a CPU, where a step costs what it takes to stream the weights.

In torch's own layout they stream at half the speed (benchmarks/decode.py). For a single row they are stored
by column, for several as oneDNN likes them, and matrices that are given the same input are joined. The layout
is made by the first step and pays after a few. Parts do not know of it: their linear layers are replaced.
"""

from copy import copy
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.model.head import Head
from ablate.parts.linear import ONEDNN, Linear, onednn, reorder

JOINED = (("q", "k", "v"), ("gate", "up"))  # layers of a part that are given the same input, in this order
DTYPES = (torch.float32, torch.bfloat16)


def packable(decoder: Decoder) -> bool:
    weight = decoder.embedding.weight
    return weight.device.type == "cpu" and weight.dtype in DTYPES and ONEDNN


def packed(decoder: Decoder) -> Decoder:
    """The same decoder for decoding, beside it. What is no matrix of a linear layer is shared; the matrices
    do not follow later changes. Ask `packable` first."""
    twin = _twin(decoder)
    twin.head = PackedHead(decoder.head, decoder.embedding.weight)
    return twin


def _twin(module: Any) -> Any:
    """The module with twins of its children, and packed matrices for its linear layers."""
    twin = copy(module)
    twin._modules = {name: child and _twin(child) for name, child in module._modules.items()}
    if isinstance(twin, nn.Dropout):
        return nn.Identity()
    linear = {name: child for name, child in module._modules.items() if isinstance(child, Linear)}
    for names in JOINED:
        if all(name in linear for name in names):
            joined = Joined([linear.pop(name) for name in names])
            slices = (Slice(joined, n) for n in range(1, len(names)))
            twin._modules |= dict(zip(names, (joined, *slices), strict=True))
    twin._modules |= {name: Packed(child.weight, child.bias) for name, child in linear.items()}
    return twin


class Packed(nn.Module):
    """y = x W' + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight.detach(), bias

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            return F.linear(x, self.columns, self.bias)
        return onednn(x, self.blocks, self.bias)

    @cached_property
    def columns(self) -> Tensor:
        return self.weight.t().contiguous().t()

    @cached_property
    def blocks(self) -> Tensor:
        return reorder(self.weight)


class Joined(Packed):
    """The first of several layers with one input: computes all of them, and gives its own part."""

    def __init__(self, layers: list[Linear]):
        bias = None
        if any(layer.bias is not None for layer in layers):
            zero = layers[0].weight.new_zeros
            bias = torch.cat([zero(e.out_features) if e.bias is None else e.bias.detach() for e in layers])
        super().__init__(torch.cat([layer.weight.detach() for layer in layers]), bias)
        self.sizes = [layer.out_features for layer in layers]
        self.last: list[Any] = [None, ()]  # the input and all outputs of the last call

    def forward(self, x: Tensor) -> Tensor:
        self.last[:] = x, super().forward(x).split_with_sizes(self.sizes, -1)
        return self.last[1][0]


class Slice(nn.Module):
    """The n-th of the joined layers; the first has computed it from the same input."""

    def __init__(self, joined: Joined, n: int):
        super().__init__()
        self.last, self.n = joined.last, n

    def forward(self, x: Tensor) -> Tensor:
        if x is not self.last[0]:
            raise RuntimeError("joined layers are called in order, with the same input")
        return self.last[1][self.n]


class PackedHead(nn.Module):
    """The head with its matrix, or the embedding's, packed."""

    def __init__(self, head: Head, embedding: Tensor):
        super().__init__()
        self.packed = Packed(embedding if head.weight is None else head.weight, head.bias)
        self.cap = head.cap

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.cap(self.packed(x))
