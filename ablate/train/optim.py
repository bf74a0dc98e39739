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
