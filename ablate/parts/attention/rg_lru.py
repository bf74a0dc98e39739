"""Real-gated linear recurrent unit, a token mixer."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.recurrence import RecurrentContext, RecurrentMixer, ShortConvolution
from ablate.parts.scan import softplus, wide
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape

SHARPNESS = 8.0  # c of the paper
LEAST_DECAY, MOST_DECAY = (
    0.9,
    0.999,
)  # between which the decay of an open gate starts, before it is taken to the c


def decays(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The number whose softplus is -log a, with a^2 uniform between 0.9^2 and 0.999^2 (section 2.4)."""
    square = torch.empty(shape).uniform_(LEAST_DECAY**2, MOST_DECAY**2, generator=generator)
    return torch.expm1(-square.log() / 2).log()


class BlockDiagonal(nn.Module):
    """W x + b with a block for each of H parts of the channels: (..., T, H w) -> (..., T, H w)."""

    def __init__(self, blocks: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, width, width))  # (H, in, out)
        self.bias = nn.Parameter(torch.empty(blocks, width))
        self.starts = {
            "weight": lambda shape, generator: torch.randn(shape, generator=generator) * width**-0.5,
            "bias": lambda shape, generator: torch.zeros(shape),
        }

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (len(self.weight), -1)).movedim(-2, -3)  # (..., H, T, w)
        y: Tensor = (parts @ self.weight.to(x.dtype)).movedim(-3, -2) + self.bias
        return y.flatten(-2)


@attention("rg_lru", paper="arXiv:2402.19427")
class RealGatedRecurrence(RecurrentMixer):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t, y = out(activation(gate x) * h), with u = conv(W x),
    i = sigmoid(W_i u) and log a = -8 softplus(A) sigmoid(W_a u) (Griffin, De et al. 2024, section 2.4).

    `recurrent_width` are the channels of u (null: the width), of which W_i and W_a mix those of one of
    `blocks` alone (null: as many as heads). The first token of a document has 1 for the root, as in the
    authors' code.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        recurrent_width: Annotated[int, Gt(0)] | None = None,
        blocks: Annotated[int, Gt(0)] | None = None,
        convolution: Annotated[int, Ge(1)] = 4,
        activation: Annotated[Factory, Part("activation")] = use("gelu", form="tanh"),
    ):
        super().__init__()
        C, W = shape.width, recurrent_width or shape.width
        H = blocks or shape.heads
        self.u, self.gate, self.out = Linear(C, W), Linear(C, W), Linear(W, C)
        self.conv = ShortConvolution(W, convolution, bias=True)
        self.input_gate, self.decay_gate = BlockDiagonal(H, W // H), BlockDiagonal(H, W // H)
        self.log_rate = nn.Parameter(torch.empty(W))
        self.starts = {"log_rate": decays}
        self.activation = activation()
        self.more_activations = 20 * W
        self.state_sizes = (W, (convolution - 1) * W, 1)
        self.state_products = W + convolution * W

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        u = wide(self.conv(self.u(x), view, n, "u"))
        log_decay = -SHARPNESS * softplus(self.log_rate) * self.decay_gate(u).sigmoid()
        follows = view.earlier(n, "follows", torch.ones_like(u[..., :1]), (0, 1))[0]  # 0: a document begins
        root = (-torch.expm1(2 * log_decay)).sqrt().where(follows > 0, 1.0)
        h = view.accumulate(n, log_decay.exp(), root * self.input_gate(u).sigmoid() * u)
        y: Tensor = self.out(self.activation(self.gate(x)) * h.to(x.dtype))
        return y

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        return {
            "recurrent_width": None if options.recurrent_width == model.width else options.recurrent_width,
            "blocks": None if options.blocks == model.heads else options.blocks,
        }

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        width, blocks = options.recurrent_width or model.width, options.blocks or model.heads
        if width % blocks:
            wrong.append(f"blocks {blocks} does not divide recurrent_width {width}")
        return wrong
