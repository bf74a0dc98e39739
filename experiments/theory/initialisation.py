"""The start of a decoder as Xiong et al. 2020 (arXiv:2002.04745) analyse it: pre- and post-norm by depth.

Their model: x_0 ~ N(0, I), one head, a square ReLU feed-forward, Xavier's normal start, no bias. Here queries
and keys start by Xavier too (in the proof they are zero); the bounds of Lemma 2 hold for any attention
weights. The head is untied.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ablate.measure.hooks import streams
from ablate.model.decoder import Decoder
from ablate.registry import placement
from ablate.spec import ModelSpec


class Start(NamedTuple):
    """One model before its first step. The gradients are for W^{2,L}, the last feed-forward's `down`."""

    gradient: float  # Frobenius norm of the gradient of the batch's mean loss
    token_gradient: float  # the same for the loss of a single token, averaged over tokens (Theorem 1)
    norms: list[float]  # E |x_l|^2 / d after layers l = 1..L, over tokens; post-norm: before its last norm


Placement = Literal["pre", "post"]


def spec(
    placement: Placement, depth: int, *, width: int = 128, vocab: int = 512, context: int = 64
) -> ModelSpec:
    """The model of the analysis."""
    return ModelSpec.model_validate(
        {
            "width": width,
            "depth": depth,
            "heads": 1,
            "context": context,
            "vocab": vocab,
            "norm": "layernorm",
            "placement": placement,
            "topology": "serial",
            "position": "none",
            "attention": "softmax",
            "ffn": {"name": "mlp", "activation": "relu", "width": width},
            "embedding": {"scale": "sqrt_width", "norm": "none"},
            "head": {"tied": False},
            "init": "xavier",
            "kernel": "auto",
        }
    )


def start(model: ModelSpec, seed: int, *, rows: int = 8) -> Start:
    """Draw the model, and look at one batch of random tokens and targets: `rows` full contexts."""
    decoder = Decoder(model).init_parameters(seed)
    tokens, targets = batch(model, seed, rows)
    matrix = decoder.layers[-1].ffn.down
    with streams(decoder) as heard, before_norm(decoder) as sums, around(matrix) as last:
        loss = decoder(tokens, targets=targets).nll.mean()
    hidden, out = last
    of_matrix, of_out = torch.autograd.grad(loss, (matrix.weight, out))
    # Behind the last feed-forward tokens no longer meet, so the loss of one token has an outer product as its
    # gradient, whose norm is the product of two.
    each = of_out.norm(dim=-1) * tokens.numel() * hidden.norm(dim=-1)
    return Start(float(of_matrix.norm()), float(each.mean()), squares(model, heard, sums))


@torch.no_grad()
def norms(model: ModelSpec, seed: int, *, rows: int = 8) -> list[float]:
    """Those of `start`, without its gradients."""
    decoder = Decoder(model).init_parameters(seed)
    with streams(decoder) as heard, before_norm(decoder) as sums:
        decoder(batch(model, seed, rows)[0])
    return squares(model, heard, sums)


def batch(model: ModelSpec, seed: int, rows: int) -> Tensor:
    """Tokens and targets (2, rows, context), uniform over the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.shape().vocab, (2, rows, model.context), generator=generator)


def squares(model: ModelSpec, heard: list[Tensor], sums: list[Tensor]) -> list[float]:
    """E |x_l|^2 / d after each layer: of the stream, or under post-norm of what enters its last norm."""
    after = sums if placement.build(model.placement, model.depth).residual_norm else heard[1:]
    return [float(x.double().square().sum(-1).mean()) / model.width for x in after]


@contextmanager
def before_norm(decoder: Decoder) -> Iterator[list[Tensor]]:
    """Fills the list with what enters the norm after each layer's feed-forward: the sum of stream and branch
    (x^5 in the paper). Where no norm stands, it is the stream itself."""
    heard: list[Tensor] = []

    def hear(module: Any, given: tuple[Tensor, ...]) -> None:
        heard.append(given[0].detach())

    hooks = [layer.ffn_residual.residual_norm.register_forward_pre_hook(hear) for layer in decoder.layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def around(module: nn.Module) -> Iterator[list[Tensor]]:
    """Fills the list with what enters a module and what leaves it; the latter stays in the graph."""
    heard: list[Tensor] = []

    def hear(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
        heard[:] = [given[0].detach(), out]

    hook = module.register_forward_hook(hear)
    try:
        yield heard
    finally:
        hook.remove()
