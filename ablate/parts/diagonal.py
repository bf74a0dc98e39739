"""Recurrences whose state decays number by number: token by token, and in blocks.

    h_t = a_t h_{t-1} + x_t

Letters: B rows, T tokens, * the dimensions of a state. All functions read decay and x (B,T,*), a state (B,*)
and segment (B,T) or None; they give (B,T,*) and the state after the last token. A state is empty before the
first token of each segment; segment 0 goes on with the given state.

A row of T tokens is cut into about sqrt(T) blocks, which are accumulated side by side, each from an empty
state on; then the state before each block is added to its tokens (arXiv:1709.04057, section 2.2). So there
are about 2 sqrt(T) steps, each a few operators. The gradient is a recurrence of the same form, from the last
token to the first.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor

FAR_BELOW = 1e30  # below which nothing is the highest


def step_by_step(
    decay: Tensor, x: Tensor, state: Tensor, segment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token, as the equation says."""
    decay, states = bordered(decay, segment), []
    for a, added in zip(decay.unbind(1), x.unbind(1), strict=True):
        state = a * state + added
        states.append(state)
    return torch.stack(states, 1), state


def in_blocks(
    decay: Tensor, x: Tensor, state: Tensor, segment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same in blocks, with the gradient in closed form: it keeps `decay` and h alone. A compiler derives
    and joins the operators itself."""
    decay = bordered(decay, segment)
    if torch.compiler.is_compiling():
        h = _in_blocks(decay, x, state, backwards=False)
    else:
        h = _Accumulated.apply(decay, x, state, False)  # type: ignore[no-untyped-call]
    return h, h[:, -1]


class _Accumulated(torch.autograd.Function):
    """h of `_in_blocks`. With g the gradient of h: dx_t = g_t + a_{t+1} dx_{t+1}, da_t = dx_t h_{t-1}."""

    generate_vmap_rule = True  # for several models at once

    @staticmethod
    def forward(decay: Tensor, x: Tensor, state: Tensor, backwards: bool) -> Tensor:
        return _in_blocks(decay, x, state, backwards)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], inputs[2], output)
        ctx.backwards = inputs[3]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        decay, state, h = ctx.saved_tensors
        first, nothing = -1 if ctx.backwards else 0, torch.zeros_like(state)
        dx = _Accumulated.apply(  # type: ignore[no-untyped-call]
            _shifted(decay, nothing, not ctx.backwards), g, nothing, not ctx.backwards
        )
        return dx * _shifted(h, state, ctx.backwards), dx, decay[:, first] * dx[:, first], None


def _shifted(x: Tensor, beyond: Tensor, backwards: bool) -> Tensor:
    """What stands at the token before each in x (B,T,*), or after each; `beyond` (B,*) at the end."""
    return torch.cat((x[:, 1:], beyond[:, None]) if backwards else (beyond[:, None], x[:, :-1]), 1)


def _in_blocks(decay: Tensor, x: Tensor, state: Tensor, backwards: bool) -> Tensor:
    """h (B,T,*) of bordered decays; `backwards`, from the last token to the first."""
    T, order = x.shape[1], -1 if backwards else 1
    size = isqrt(T - 1) + 1
    missing = -T % size
    before, after = (missing, 0) if backwards else (0, missing)
    a, added = (_filled(y, before, after).unflatten(1, (-1, size)) for y in (decay, x))  # (B,N,size,*)
    (a_1, *rates), (h_1, *more) = (y.unbind(2)[::order] for y in (a, added))
    alone, reach = [h_1], [a_1]  # h from an empty state on, and what is left of a state before the block
    for rate, new in zip(rates, more, strict=True):
        alone.append(torch.addcmul(new, rate, alone[-1]))
        reach.append(rate * reach[-1])
    states = [state]
    ends, whole = (y[-1].unbind(1)[::order] for y in (alone, reach))
    for end, kept in zip(ends[:-1], whole[:-1], strict=True):
        states.append(torch.addcmul(end, kept, states[-1]))
    inside, left = (torch.stack(y[::order], 2) for y in (alone, reach))
    h = torch.addcmul(inside, left, torch.stack(states[::order], 1)[:, :, None]).flatten(1, 2)
    return h[:, before : before + T]


def _filled(x: Tensor, before: int, after: int) -> Tensor:
    """x (B,T,*) with so many tokens of zeros on both sides."""
    if not before + after:
        return x
    left, right = (x.new_zeros(len(x), n, *x.shape[2:]) for n in (before, after))
    return torch.cat((left, x, right), 1)


def accumulated(
    decay: Tensor, x: Tensor, state: Tensor, segment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The form that is faster: a step for one token, blocks for more."""
    form = step_by_step if x.shape[1] == 1 else in_blocks
    return form(decay, x, state, segment)


def bordered(decay: Tensor, segment: Tensor | None) -> Tensor:
    """The decay, 0 where a segment begins."""
    if segment is None:
        return decay
    before = torch.cat((torch.zeros_like(segment[:, :1]), segment[:, :-1]), 1)
    same = segment == before
    return decay * same.reshape(*same.shape, *[1] * (decay.ndim - 2))


def _delayed(x: Tensor, tokens: int, nothing: float) -> Tensor:
    """x (B,T,*) so many tokens later, `nothing` before."""
    return torch.cat((torch.full_like(x[:, :tokens], nothing), x[:, :-tokens]), 1)


def highest(log_decay: Tensor, x: Tensor, state: Tensor, segment: Tensor | None = None) -> Tensor:
    """m_t = max(log_decay_t + m_{t-1}, x_t), (B,T,*), as fast as one block; m is 0 before the first token of
    each segment, and the state (B,*) before segment 0."""
    kept, m = log_decay, x
    if segment is not None:
        before = torch.cat((torch.zeros_like(segment[:, :1]), segment[:, :-1]), 1)
        begins = (segment != before).reshape(*segment.shape, *[1] * (x.ndim - 2))
        m = torch.maximum(x, log_decay).where(begins, x)
        kept = log_decay.masked_fill(begins, -FAR_BELOW)
    reach = 1
    while reach < x.shape[1]:
        m = torch.maximum(m, kept + _delayed(m, reach, -FAR_BELOW))
        kept = (kept + _delayed(kept, reach, 0.0)).clamp(min=-FAR_BELOW)
        reach *= 2
    return torch.maximum(m, kept + state[:, None])
