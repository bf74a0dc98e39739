"""Root mean square normalisation."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from ablate.registry import norm
from ablate.spec import LayerSpec, ModelSpec


@norm("rmsnorm", paper="arXiv:1910.07467")
class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps); with `offset`, (1 + w) in the place of w (Gemma), so that weight
    decay pulls towards the plain norm; without `weight`, no w (nanochat). Zhang & Sennrich 2019, eq. 4."""

    weight: Tensor | None

    def __init__(
        self, width: int, *, eps: Annotated[float, Gt(0)] = 1e-5, offset: bool = False, weight: bool = True
    ):
        super().__init__()
        self.eps, self.offset = eps, offset
        self.constants = {"weight": 0.0 if offset else 1.0}
        self.weight = nn.Parameter(torch.full((width,), self.constants["weight"])) if weight else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return F.rms_norm(x, x.shape[-1:], None, self.eps)
        weight = (1 + self.weight if self.offset else self.weight).to(x.dtype)
        if not by_hand(x):
            return F.rms_norm(x, weight.shape, weight, self.eps)
        if not torch.is_grad_enabled():
            return _Normalised.forward(x, weight, self.eps)[0]
        y: Tensor = _Normalised.apply(x, weight, self.eps)[0]  # type: ignore[no-untyped-call]
        return y

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if options.offset and not options.weight:
            return ["offset adds 1 to the weight, and weight=false leaves none"]
        return []


def by_hand(x: Tensor) -> bool:
    """Where torch has no kernel, and takes value and gradient operator by operator."""
    wide = x.dtype in (torch.float32, torch.float64)
    return wide and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Normalised(torch.autograd.Function):
    """F.rms_norm bit for bit, with its gradient in closed form, which takes a third of the time.

    With r = 1 / sqrt(mean(x^2) + eps) and u = r x: dx = r (w dy - u mean(w dy u)),
    dw = sum of u dy.
    """

    generate_vmap_rule = True  # for several models at once

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        r = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        return (x * r).mul_(weight), r

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        unit, g = x * r, dy * weight
        mean = (g * unit).mean(-1, keepdim=True)
        return g.sub_(unit * mean).mul_(r), unit.mul_(dy).flatten(0, -2).sum(0), None
