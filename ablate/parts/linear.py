"""The product that all linear layers are made of, by the fastest library at hand.

In fp32 on a CPU torch calls MKL, which is the fastest on Intel's processors and reaches less than half of the
speed of others. On those oneDNN, which torch calls for bf16 everywhere, is as fast as they are
(benchmarks/limits.py).
"""

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.parts.stacked import stacked

OTHERS = ("AuthenticAMD", "HygonGenuine")  # makers of x86 processors that are not Intel, as these say it
ONEDNN = torch.backends.mkldnn.is_available()


@cache
def cpu_description() -> str:
    """What the system says of the processor; the maker's name is in it on Linux and on Windows."""
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return platform.processor()


def mkl_is_slow() -> bool:
    """Whether torch's fp32 products are slow here, and oneDNN is at hand. No, where the maker is unknown."""
    said = cpu_description()
    return ONEDNN and torch.backends.mkl.is_available() and any(maker in said for maker in OTHERS)


INTEL = "GenuineIntel" in cpu_description()
BY_HAND = mkl_is_slow()  # whether `product` calls oneDNN where torch would not


class Linear(nn.Linear):
    """y = x W' + b, with the parameters of `nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) W' (in, out) + b -> (..., out)."""
    if serves(x, weight):
        if not torch.is_grad_enabled():
            return onednn(x, weight, bias)
        y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return F.linear(x, weight, bias)


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to be called here: fp32 on a CPU. Under autocast torch calls it itself; products of
    several models at once are one batched product (`bmm`), which is as fast."""
    return (
        BY_HAND
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) is Tensor
        and not stacked(x, weight)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `product`; no gradient. `weight` may lie in memory as it likes, or as `reorder` left it."""
    multiply = _opaque if torch.compiler.is_compiling() else _onednn
    return multiply(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return y


# The compiler takes oneDNN's operator for one with constant weights and makes it slower than MKL: it must not
# look inside.
_opaque = torch.library.custom_op("ablate::linear", _onednn, mutates_args=())


@_opaque.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def reorder(weight: Tensor) -> Tensor:
    """The matrix laid out as oneDNN reads it fastest, for products with few rows."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return laid_out


class _Product(torch.autograd.Function):
    """dx = dy W, dW = dy' x, db = sum dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dy = dy.contiguous()
        rows, dys = x.flatten(0, -2), dy.flatten(0, -2)
        return (
            onednn(dy, weight.t()) if of_x else None,
            onednn(dys.t(), rows.t()) if of_weight else None,
            dys.sum(0) if of_bias else None,
        )
