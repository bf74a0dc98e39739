"""In which order a layer calls its two children, `attention` and `ffn`."""

from typing import Annotated, Any, Literal

from annotated_types import Gt
from torch import Tensor, nn

from ablate.model.residual import Frame, Placement
from ablate.parts.canon import STATES, Canon
from ablate.parts.connection import State
from ablate.registry import Factory, Options, Part, topology
from ablate.registry import placement as placements
from ablate.spec import LayerSpec, ModelSpec


@topology("serial", paper="arXiv:1706.03762")
class Serial(nn.Module):
    """x <- x + attention(x); x <- x + ffn(x). `ffn_norm` is the norm of the second branch, where it is not
    the layer's (A.X K2)."""

    def __init__(
        self,
        attention: nn.Module,
        ffn: nn.Module,
        placement: Placement,
        frame: Frame,
        *,
        ffn_norm: Annotated[Factory, Part("norm")] | None = None,
    ):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual = frame.residual(placement)
        self.ffn_residual = frame.with_norm(ffn_norm).residual(placement, first=False)

    def forward(self, x: State, view: Any, n: int) -> State:
        x = self.attention_residual(x, lambda u: self.attention(u, view, n))
        return self.ffn_residual(x, lambda u: self.ffn(u, view.aux[n]))


@topology("parallel", paper="arXiv:2204.02311")
class Parallel(nn.Module):
    """x <- x + attention(x) + ffn(x), after one norm (GPT-J, PaLM, Falcon-7B)."""

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual = frame.residual(placement)

    def forward(self, x: State, view: Any, n: int) -> State:
        return self.attention_residual(x, lambda u: self.attention(u, view, n) + self.ffn(u, view.aux[n]))

    @classmethod
    def check(cls, options: Options, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if not placements.build(layer.placement, model.depth).bare_first:
            return []
        return [f"has one norm for both branches, and placement {layer.placement.name} leaves it out"]


@topology("parallel_two_norms", paper="arXiv:2204.06745")
class ParallelTwoNorms(nn.Module):
    """x <- x + attention(norm(x)) + ffn(norm'(x)), each with a norm of its own (GPT-NeoX, Pythia)."""

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual = frame.residual(placement)
        self.ffn_residual = frame.branch(placement)

    def forward(self, x: State, view: Any, n: int) -> State:
        u, kept = self.attention_residual.connection.read(x)
        a = self.attention_residual.delta(u, lambda u: self.attention(u, view, n))
        f = self.ffn_residual.delta(u, lambda u: self.ffn(u, view.aux[n]))
        return self.attention_residual.connection.write(kept, a + f, self.attention_residual.close)

    @classmethod
    def check(cls, options: Options, layer: LayerSpec, model: ModelSpec) -> list[str]:
        built: Placement = placements.build(layer.placement, model.depth)
        if not (built.input_norm or built.output_norm):
            return [f"has a norm for each branch, but placement {layer.placement.name} has none on a branch"]
        return []


@topology("single", paper="arXiv:2312.00752")
class Single(nn.Module):
    """x <- x + f(x), after one norm: f is the token mixer where `ffn` is none, as in Mamba, or the
    feed-forward where `attention` is none (Nemotron-H, arXiv:2504.03624). The other one is the identity."""

    one_branch = True

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.residual = frame.residual(placement)

    def forward(self, x: State, view: Any, n: int) -> State:
        return self.residual(x, lambda u: self.ffn(self.attention(u, view, n), view.aux[n]))

    @classmethod
    def check(cls, options: Options, layer: LayerSpec, model: ModelSpec) -> list[str]:
        branches = (layer.attention.entry.make, layer.ffn.entry.make)
        if sum(getattr(branch, "absent", False) for branch in branches) == 1:
            return []
        return [
            "is a layer of one branch, so one of ffn and attention is none: say ffn=none for a token mixer "
            "alone, attention=none for a feed-forward alone"
        ]


@topology("canon", paper="https://ssrn.com/abstract=5240330")
class CanonSerial(Serial):
    """x <- x + attention(u + conv(u)); x <- x + ffn(u + conv(u)), u what a branch reads after its norm
    (Canon-A and Canon-C; Allen-Zhu 2025, section 4.1).

    `points` says where: a before attention, c before the feed-forward; or on what a branch gives,
    attention_out and ffn_out (Inkling). conv reads the last `kernel_size`
    tokens of each channel. The points B and D are `attention=canon` and `ffn=canon`.
    """

    def __init__(
        self,
        attention: nn.Module,
        ffn: nn.Module,
        placement: Placement,
        frame: Frame,
        *,
        points: tuple[Literal["a", "c", "attention_out", "ffn_out"], ...] = ("a", "c"),
        kernel_size: Annotated[int, Gt(1)] = 4,
    ):
        super().__init__(attention, ffn, placement, frame)
        self.canons = nn.ModuleDict(
            {at: Canon(frame.width, kernel_size, f"canon_{at}") for at in sorted(points)}
        )

    def forward(self, x: State, view: Any, n: int) -> State:
        x = self.attention_residual(x, lambda u: self.attended(u, view, n))
        return self.ffn_residual(x, lambda u: self.fed(u, view, n))

    def attended(self, u: Tensor, view: Any, n: int) -> Tensor:
        """The branch of attention, between its Canon layers."""
        y = self.attention(self.through("a", u, view, n), view, n)
        return self.through("attention_out", y, view, n)

    def fed(self, u: Tensor, view: Any, n: int) -> Tensor:
        """The branch of the feed-forward, likewise."""
        return self.through("ffn_out", self.ffn(self.through("c", u, view, n), view.aux[n]), view, n)

    def through(self, point: str, u: Tensor, view: Any, n: int) -> Tensor:
        """u (B,T,C), after the Canon layer of this point if there is one."""
        if point not in self.canons:
            return u
        y: Tensor = self.canons[point](u, view.shared[STATES], n)
        return y

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        return {"points": tuple(sorted(set(options.points)))}

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        return [] if options.points else ["has no points, so it is topology=serial"]
