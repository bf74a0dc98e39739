"""In which order a layer calls its two children, `attention` and `ffn`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ablate.model.residual import Placement, Residual
from ablate.registry import Options, topology
from ablate.registry import placement as placements
from ablate.spec import LayerSpec, ModelSpec

Frame = Callable[[Placement], Residual]  # norms and dropout for a placement


@topology("serial", paper="arXiv:1706.03762")
class Serial(nn.Module):
    """x <- x + attention(x); x <- x + ffn(x)."""

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual, self.ffn_residual = frame(placement), frame(placement)

    def forward(self, x: Tensor, view: Any, n: int) -> Tensor:
        x = self.attention_residual(x, lambda u: self.attention(u, view, n))
        y: Tensor = self.ffn_residual(x, lambda u: self.ffn(u, view.aux[n]))
        return y


@topology("parallel", paper="arXiv:2204.02311")
class Parallel(nn.Module):
    """x <- x + attention(x) + ffn(x), after one norm (GPT-J, PaLM, Falcon-7B)."""

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual = frame(placement)

    def forward(self, x: Tensor, view: Any, n: int) -> Tensor:
        y: Tensor = self.attention_residual(
            x, lambda u: self.attention(u, view, n) + self.ffn(u, view.aux[n])
        )
        return y


@topology("parallel_two_norms", paper="arXiv:2204.06745")
class ParallelTwoNorms(nn.Module):
    """x <- x + attention(norm(x)) + ffn(norm'(x)), each with a norm of its own (GPT-NeoX, Pythia)."""

    def __init__(self, attention: nn.Module, ffn: nn.Module, placement: Placement, frame: Frame):
        super().__init__()
        self.attention, self.ffn = attention, ffn
        self.attention_residual = frame(placement)
        self.ffn_residual = frame(placement._replace(residual_norm=False))

    def forward(self, x: Tensor, view: Any, n: int) -> Tensor:
        a = self.attention_residual.delta(x, lambda u: self.attention(u, view, n))
        f = self.ffn_residual.delta(x, lambda u: self.ffn(u, view.aux[n]))
        return self.attention_residual.add(x, a + f)

    @classmethod
    def check(cls, options: Options, layer: LayerSpec, model: ModelSpec) -> list[str]:
        built: Placement = placements.build(layer.placement, model.depth)
        if not (built.input_norm or built.output_norm):
            return [f"has a norm for each branch, but placement {layer.placement.name} has none on a branch"]
        return []
