"""Recurrences whose state decays number by number: token by token, and in blocks.

    h_t = a_t h_{t-1} + x_t

Letters: B rows, T tokens, * the dimensions of a state. All functions read decay and x (B,T,*), a state (B,*)
and segment (B,T) or None; they give (B,T,*) and the state after the last token. A state is empty before the
first token of each segment; segment 0 goes on with the given state.

The blocks are those of a parallel prefix sum (Blelloch 1990; arXiv:1709.04057): inside of a block, each step
adds up twice as many tokens as the one before.
"""

import torch
from torch import Tensor

BLOCK_TOKENS = 64  # tokens; a power of two
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
    decay: Tensor,
    x: Tensor,
    state: Tensor,
    segment: Tensor | None = None,
    block: int = BLOCK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """The same in blocks: between blocks goes a state, inside of one all tokens are added up at once."""
    states = []
    for a, added in zip(bordered(decay, segment).split(block, 1), x.split(block, 1), strict=True):
        reach = 1
        while reach < a.shape[1]:
            added = added + a * _delayed(added, reach, 0.0)
            a = a * _delayed(a, reach, 1.0)
            reach *= 2
        states.append(added + a * state[:, None])
        state = states[-1][:, -1]
    return torch.cat(states, 1), state


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
