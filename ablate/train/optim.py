"""Optimizers. Each takes the named parameters and gives the torch optimizers that step them together.

The rate of each parameter group is its `lr` times the factor of the schedule. Weight decay acts on
matrices only: not on norms, biases and other vectors, those of single heads included.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn
from torch.optim import Optimizer

from ablate.model.init import TABLES
from ablate.model.measure import is_matrix
from ablate.registry import Factory, Part, optimizer, use

Named = Sequence[tuple[str, nn.Parameter]]
Rate = Annotated[float, Gt(0)]
Beta = Annotated[float, Ge(0), Lt(1)]
Decay = Annotated[float, Ge(0)]


def groups(named: Named, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not."""
    matrices = [p for _, p in named if is_matrix(p)]
    vectors = [p for _, p in named if not is_matrix(p)]
    both = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in both if group["params"]]


@optimizer("adamw", paper="arXiv:1711.05101")
def adamw(
    named: Named,
    *,
    lr: Rate = 3e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.95,
    eps: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Decay = 0.1,
) -> list[Optimizer]:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    return [torch.optim.AdamW(groups(named, weight_decay), lr=lr, betas=(beta1, beta2), eps=eps, fused=True)]


@optimizer("mup", paper="arXiv:2203.03466")
def mup(
    named: Named,
    *,
    base_width: Annotated[int, Gt(0)] = 256,
    lr: Rate = 3e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.95,
    eps: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Decay = 0.1,
) -> list[Optimizer]:
    """AdamW, with the rate lr base_width / fan-in for each matrix inside the layers, so that the best rate
    found at one width holds at others (muP, Yang et al. 2022, table 8). Embedding, head, tables and vectors
    have the rate lr. Rate times decay is the same for all matrices. Goes with `init=mup` of the same
    `base_width`, with `model.head.multiplier` = base_width / width, and with heads of one width, or with an
    `attention.scale` in proportion to 1 / head width. The paper counts each matrix from its own size at the
    base width; here a fan-in counts as it is, so a projection down from 4C has a quarter of C's rate."""
    by_rate: dict[float, list[tuple[str, nn.Parameter]]] = {1.0: []}
    for name, p in named:
        by_rate.setdefault(base_width / p.shape[-1] if is_hidden(name, p) else 1.0, []).append((name, p))
    rates = [
        {**group, "lr": lr * times}
        for times, some in by_rate.items()
        for group in groups(some, weight_decay / times)
    ]
    return [torch.optim.AdamW(rates, lr=lr, betas=(beta1, beta2), eps=eps, fused=True)]


def is_hidden(name: str, p: nn.Parameter) -> bool:
    """A linear map inside the layers, neither a table nor a convolution of single channels."""
    *path, role, leaf = f"..{name}".split(".")
    return leaf == "weight" and role not in TABLES and "layers" in path and is_matrix(p)


@optimizer("sgd", paper="https://proceedings.mlr.press/v28/sutskever13.html")
def sgd(
    named: Named,
    *,
    lr: Rate = 0.1,
    momentum: Beta = 0.9,
    nesterov: bool = True,
    weight_decay: Decay = 0.0,
) -> list[Optimizer]:
    """Gradient descent with momentum (Sutskever et al. 2013)."""
    nesterov = nesterov and momentum > 0
    return [torch.optim.SGD(groups(named, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov)]


@optimizer("muon", paper="https://kellerjordan.github.io/posts/muon/")
def muon(
    named: Named,
    *,
    lr: Rate = 3e-3,
    momentum: Beta = 0.95,
    nesterov: bool = True,
    weight_decay: Decay = 0.1,
    steps: Annotated[int, Gt(0)] = 5,
    rest: Annotated[Factory, Part("optimizer")] = use("adamw"),
) -> list[Optimizer]:
    """Momentum made orthogonal by `steps` Newton-Schulz iterations (Jordan et al. 2024), for the matrices
    inside the layers. Embedding, head, positions, norms and vectors go to the optimizer `rest`. Updates are
    scaled to AdamW's size (Liu et al. 2025, arXiv:2502.16982), so the two rates are alike."""
    hidden = [(name, p) for name, p in named if ".layers." in f".{name}" and p.ndim == 2]
    chosen = {name for name, _ in hidden}
    first = torch.optim.Muon(
        hidden,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        ns_steps=steps,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [(name, p) for name, p in named if name not in chosen]
    return [first, *rest(others)] if others else [first]
