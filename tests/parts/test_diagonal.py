"""Recurrences of numbers in blocks are those token by token: outputs, last states and gradients."""

import pytest
import torch
from torch import Tensor

from ablate.parts.diagonal import accumulated, highest, in_blocks, step_by_step

BORDERS = [None, [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 2, 3], [1, 1, 2, 2, 2, 2, 2]]


def given(T: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    decay = torch.rand(2, T, 3, 4, generator=generator, dtype=torch.float64)
    decay[:, T // 2] = 0.0  # nothing is left of what was before
    x = torch.randn(2, T, 3, 4, generator=generator, dtype=torch.float64)
    return decay, x, torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("T", [1, 2, 4, 5, 7])
def test_blocks_are_steps(border, T):
    tensors = [t.requires_grad_() for t in given(T, torch.Generator().manual_seed(0))]
    segment = None if border is None else torch.tensor([border[:T], border[:1] * T])
    by_step, by_block = step_by_step(*tensors, segment), in_blocks(*tensors, segment)
    for one, other in zip(by_step, by_block, strict=True):
        torch.testing.assert_close(one, other)
    grads = [
        torch.autograd.grad(h.square().sum() + state.square().sum(), tensors)
        for h, state in (by_step, by_block)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_a_row_in_pieces_is_the_whole_row():
    decay, x, state = given(70, torch.Generator().manual_seed(1))
    segment = (torch.arange(70) >= 20).long().expand(2, -1)
    whole, last = accumulated(decay, x, state, segment)
    pieces, found = [], state
    for a, b in ((0, 66), (66, 67), (67, 70)):
        part = segment[:, a:b] - segment[:, max(a - 1, 0) : max(a, 1)]  # 0: the document goes on
        h, found = accumulated(decay[:, a:b], x[:, a:b], found, part)
        pieces.append(h)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    torch.testing.assert_close(found, last)
    alone, _ = accumulated(decay[:, 20:], x[:, 20:], torch.zeros_like(state))
    torch.testing.assert_close(whole[:, 20:], alone)


@pytest.mark.parametrize("border", BORDERS)
def test_the_highest_is_found_as_token_by_token(border):
    generator = torch.Generator().manual_seed(2)
    log_decay = -torch.rand(2, 7, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    state = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    segment = None if border is None else torch.tensor([border, border])
    m, expected = state, []
    for t in range(7):
        begins = border is not None and border[t] != (border[t - 1] if t else 0)
        m = torch.maximum(log_decay[:, t] + (torch.zeros_like(m) if begins else m), x[:, t])
        expected.append(m)
    torch.testing.assert_close(highest(log_decay, x, state, segment), torch.stack(expected, 1))
