"""Where norms stand around a branch of the residual stream."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ablate.parts.connection import Connection, State
from ablate.registry import placement


class Placement(NamedTuple):
    """x <- stream(gain x + branch(f(inside(x)))): True where a norm stands. `embed` is one on the
    embedding, `final` one before the head."""

    input_norm: bool = False
    output_norm: bool = False
    residual_norm: bool = False
    embed: bool = False
    final: bool = False
    residual_scale: float = 1.0
    bare_first: bool = False  # no input norm on the first branch of a layer

    def of(self, first: bool) -> "Placement":
        """What stands around the first branch of a layer, or around the others."""
        return self._replace(input_norm=self.input_norm and not (first and self.bare_first))


@placement("pre", paper="arXiv:2002.04745")
def pre(depth: int) -> Placement:
    """x + f(norm(x)) (GPT-2, LLaMA)."""
    return Placement(input_norm=True, final=True)


@placement("pre_ffn", paper="arXiv:2412.13663")
def pre_ffn(depth: int) -> Placement:
    """x + attention(x), then x + ffn(norm(x)) (ModernBERT's first layer, after a norm on the embedding)."""
    return Placement(input_norm=True, final=True, bare_first=True)


@placement("post", paper="arXiv:1706.03762")
def post(depth: int) -> Placement:
    """norm(x + f(x)) (the original Transformer)."""
    return Placement(residual_norm=True)


@placement("sandwich", paper="arXiv:2105.13290")
def sandwich(depth: int) -> Placement:
    """x + norm(f(norm(x))) (CogView, Gemma 2)."""
    return Placement(input_norm=True, output_norm=True, final=True)


@placement("peri", paper="arXiv:2502.02732")
def peri(depth: int) -> Placement:
    """x + norm(f(norm(x))), and a norm on the embedding (Peri-LN)."""
    return Placement(input_norm=True, output_norm=True, embed=True, final=True)


@placement("output", paper="arXiv:2501.00656")
def output(depth: int) -> Placement:
    """x + norm(f(x)) (OLMo 2)."""
    return Placement(output_norm=True, final=True)


@placement("deepnorm", paper="arXiv:2203.00555")
def deepnorm(depth: int) -> Placement:
    """norm(alpha x + f(x)), alpha = (2L)^(1/4) (decoder only; DeepNet, figure 2). The other half of the
    scheme, beta = (8L)^(-1/4), is `init=deepnorm`."""
    return Placement(residual_norm=True, residual_scale=(2 * depth) ** 0.25)


class Branch(nn.Module):
    """f and the norms on its branch: output_norm(f(input_norm(x))). An absent norm is the identity."""

    def __init__(self, placement: Placement, norm: Callable[[], nn.Module], dropout: float):
        super().__init__()
        self.input_norm, self.output_norm = (norm() if there else nn.Identity() for there in placement[:2])
        self.dropout = nn.Dropout(dropout)

    def delta(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        delta: Tensor = self.dropout(self.output_norm(f(narrowed(self.input_norm(x)))))
        return delta


class Residual(Branch):
    """A branch and the stream: x <- residual_norm(gain x + delta(x)), as the stream's connection reads x and
    writes the sum."""

    def __init__(
        self, placement: Placement, norm: Callable[[], nn.Module], dropout: float, connection: Connection
    ):
        super().__init__(placement, norm, dropout)
        self.skip = (
            nn.Identity() if placement.residual_scale == 1.0 else ResidualScale(placement.residual_scale)
        )
        self.residual_norm = norm() if placement.residual_norm else nn.Identity()
        self.connection = connection

    def forward(self, state: State, f: Callable[[Tensor], Tensor]) -> State:
        x, kept = self.connection.read(state)
        return self.connection.write(kept, self.delta(x, f), self.close)

    def close(self, x: Tensor, delta: Tensor) -> Tensor:
        y: Tensor = self.residual_norm(self.skip(x) + delta)
        return y


class LookupBranch(nn.Module):
    """A lookup as a branch of the stream, without norms around it."""

    def __init__(self, lookup: nn.Module, residual: Residual):
        super().__init__()
        self.lookup: Any = lookup
        self.residual = residual

    def forward(self, state: State, view: Any, n: int) -> State:
        return self.residual(state, lambda x: self.lookup(x, view, n))


class Untouched(nn.Module):
    """Stands where a layer looks nothing up."""

    def forward(self, state: State, view: Any, n: int) -> State:
        return state


class Frame(NamedTuple):
    """Makes what stands around the branches of one layer."""

    norm: Callable[[], nn.Module]
    dropout: float
    connection: Callable[[bool], Connection]  # whether it is the first of its layer
    width: int

    def residual(self, placement: Placement, first: bool = True) -> Residual:
        return Residual(placement.of(first), self.norm, self.dropout, self.connection(first))

    def with_norm(self, norm: Callable[[int], nn.Module] | None) -> "Frame":
        """The frame with a norm, made of the width, in the place of the layer's; itself without one."""
        return self if norm is None else self._replace(norm=partial(norm, self.width))

    def branch(self, placement: Placement) -> Branch:
        return Branch(placement, self.norm, self.dropout)

    def lookup(self, lookup: Any, *places: str) -> nn.Module:
        """The branch of a lookup at these places of its layer, if its own is among them."""
        if lookup.place not in places:
            return Untouched()
        return LookupBranch(lookup, self.residual(Placement(), first=False))


def narrowed(x: Tensor) -> Tensor:
    """x as a product under autocast takes it: cast once, and not by each of those that are given it."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class ResidualScale(nn.Module):
    """y = gain x."""

    def __init__(self, residual_scale: float):
        super().__init__()
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        return self.residual_scale * x
