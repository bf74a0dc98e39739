"""The cross-entropy, a slice of tokens at a time: never are all logits of a large vocabulary in memory.

Of a token with input x and target y, where w is the weight of the z-loss:

    l = cap tanh((W x + b) / cap)        s = log sum exp l        p = exp(l - s)
    nll = s - l_y                        z = s^2
    dl = ((1 + 2 w s) p - 1_y) (1 - (l / cap)^2)        dx = W' dl        dW = dl x'        db = dl

The gradients are made while the logits of the slice are there, so the backward pass has no product left (Hsu
et al. 2024, Liger Kernel). That needs a loss that is a sum. torch's own `F.linear_cross_entropy` knows
neither the cap nor z, nor autocast; on an Intel CPU it is the faster (benchmarks/loss.py).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ablate.parts.compiler import keep_graphs
from ablate.parts.linear import product

LOGITS_SLICE = 64 * 2**20  # bytes of logits in fp32: up to here there is one slice
ON_CUDA = 8  # times as large on a GPU, which a slice must fill


def slice_bytes(device: str) -> int:
    """How many bytes of logits (fp32) make a slice on a kind of device."""
    return LOGITS_SLICE * (ON_CUDA if device == "cuda" else 1)


def slice_of(tokens: int, vocab: int, device: str = "cpu") -> int:
    """How many tokens are a slice."""
    return max(1, min(tokens, slice_bytes(device) // (4 * vocab)))


class Sums(NamedTuple):
    """Sums over targets."""

    objective: Tensor  # of nll + w z: what to differentiate
    nll: Tensor  # nats; has no gradient


def in_slices(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None, z_loss: float
) -> Sums:
    """x (N,C), weight (V,C), bias (V,), targets (N,), -100 where there is none. Differentiable once."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    objective, nll, *_ = _sums(x, weight, bias, targets, softcap, z_loss, dtype)
    return Sums(objective, nll.detach())


def _in_slices(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    softcap: float | None,
    z_loss: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(objective, nll, dx, dW, db), with products in `dtype` and sums in fp32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
    objective, nll = x.new_zeros((), dtype=wide), x.new_zeros((), dtype=wide)
    dx, dw = [], None
    db = x.new_zeros(0 if bias is None else len(bias), dtype=wide)
    slices = -(-len(x) // slice_of(len(x), len(weight), x.device.type))
    size = -(-len(x) // slices)  # all of one size: for another the compiler would be called again
    of_logits = compiled_loss() if x.is_cuda else in_place
    with torch.autocast(x.device.type, enabled=False):
        for rows, y in zip(x.to(dtype).split(size), targets.split(size), strict=True):
            logits = product(rows, w, b)
            both, loss, dl = of_logits(logits, y[:, None], softcap, z_loss)
            objective += both
            nll += loss
            if bias is not None:
                db += dl.sum(0, dtype=wide)
            dl = dl.to(dtype)
            dx.append(product(dl, w.t()).to(x.dtype))
            more = product(dl.t(), rows.t())
            dw = more.to(wide) if dw is None else dw.add_(more)
    assert dw is not None
    return objective, nll, torch.cat(dx), dw.to(weight.dtype), db.to(weight.dtype)


def in_place(
    logits: Tensor, y: Tensor, softcap: float | None, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits W x + b (N,V), which are overwritten, and targets (N,1) -> the sums, objective first, and dl in
    fp32 at least. There is one tensor of this size, or two with a cap."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    has, y = (y >= 0).to(wide), y.clamp(min=0)
    slope = None
    if softcap is not None:
        logits.div_(softcap).tanh_()
        slope = 1 - logits.to(wide).square()
        logits.mul_(softcap)
    logits = logits.to(wide)
    top, of_target = logits.amax(-1, keepdim=True), logits.gather(-1, y)
    p = logits.sub_(top).exp_()
    total = p.sum(-1, keepdim=True)
    s = total.log() + top
    nll = has * (s - of_target)
    dl = p.mul_(has * (1 + 2 * z_loss * s) / total).scatter_add_(-1, y, -has)
    if slope is not None:
        dl.mul_(slope)
    return (nll + z_loss * has * s.square()).sum(), nll.sum(), dl


def joined(logits: Tensor, y: Tensor, softcap: float | None, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `in_place`, as the compiler joins it best: the logits are read twice, and dl is written once, in
    their own precision."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    has = (y >= 0).to(wide)
    values = logits.to(wide)
    slope = torch.ones((), device=y.device)
    if softcap is not None:
        bounded = torch.tanh(values / softcap)
        values, slope = softcap * bounded, 1 - bounded.square()
    s = values.logsumexp(-1, keepdim=True)
    hit = torch.arange(logits.shape[1], device=y.device) == y
    nll = has * (s - torch.where(hit, values, 0.0).sum(-1, keepdim=True))
    dl = slope * has * ((1 + 2 * z_loss * s) * (values - s).exp() - hit.to(wide))
    return (nll + z_loss * has * s.square()).sum(), nll.sum(), dl.to(logits.dtype)


@lru_cache
def compiled_loss() -> Any:
    """`joined`, compiled for logits on a GPU."""
    keep_graphs()
    return torch.compile(joined, dynamic=False)


# The compiler must not look inside: it would unroll the slices, and might make them all at once.
_sums = torch.library.custom_op("ablate::loss_in_slices", _in_slices, mutates_args=())


@_sums.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *given: Any) -> tuple[Tensor, ...]:
    wide = torch.promote_types(given[-1], torch.float32)
    db = weight.new_empty(0 if bias is None else len(bias))
    return x.new_empty((), dtype=wide), x.new_empty((), dtype=wide), *map(torch.empty_like, (x, weight)), db


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*output[2:])


def _backward(ctx: Any, d: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = ctx.saved_tensors
    return dx * d, dweight * d, dbias * d if ctx.needs_input_grad[2] else None, None, None, None, None


_sums.register_autograd(_backward, setup_context=_keep)


@_sums.register_vmap
def _(info: Any, dims: Any, *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Of several models, one after the other."""
    models = [
        _sums(*[x if dim is None else x.select(dim, n) for x, dim in zip(given, dims, strict=True)])
        for n in range(info.batch_size)
    ]
    found = tuple(torch.stack(each) for each in zip(*models, strict=True))
    return found, (0,) * len(found)
