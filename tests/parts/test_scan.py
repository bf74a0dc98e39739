"""State recurrences: chunked is token by token, with gradients; a state ends with its segment."""

import pytest
import torch
from torch import Tensor

from ablate.parts.scan import chunked, recurrent

LENGTHS = (1, 7, 8, 37)


def given(T: int, channels: int, delta: bool, segments: bool, decay: float = 3.0) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(T)
    B, H, D, V = 2, 3, 8, 5

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.double, generator=generator)

    k = normal(B, H, T, D)
    return {
        "q": normal(B, H, T, D),
        "k": k / k.norm(dim=-1, keepdim=True),
        "v": normal(B, H, T, V),
        "log_decay": -decay * torch.rand(B, H, T, channels, dtype=torch.double, generator=generator),
        "state": normal(B, H, D, V),
        "segment": (torch.rand(B, T, generator=generator) < 0.2).cumsum(1) if segments else None,
        "beta": 2 * torch.rand(B, H, T, 1, dtype=torch.double, generator=generator) if delta else None,
    }


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("T", LENGTHS)
def test_chunked_is_token_by_token_with_its_gradients(T, channels, delta, segments):
    x = given(T, channels, delta, segments)
    learned = [y.requires_grad_() for y in x.values() if y is not None and y.is_floating_point()]
    results = []
    for form in (lambda **x: chunked(**x, chunk=8), recurrent):
        o, state = form(**x)
        total = o.square().sum() + state.sin().sum()
        results.append((o, state, *torch.autograd.grad(total, learned)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("channels", [1, 8])
def test_what_is_erased_may_have_a_key_of_its_own(channels, segments):
    x = given(37, channels, False, segments)
    erase = 0.3 * torch.randn(x["k"].shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    learned = [x["q"].requires_grad_(), x["k"].requires_grad_(), erase.requires_grad_()]
    results = []
    for form in (lambda **x: chunked(**x, chunk=8), recurrent):
        o, state = form(**x, erase=erase)
        results.append((o, state, *torch.autograd.grad(o.square().sum() + state.sin().sum(), learned)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_delta_rule_erases_along_its_key():
    x = given(20, 8, True, False)
    plain = {name: y for name, y in x.items() if name != "beta"}
    by_key = recurrent(**{**plain, "v": x["beta"] * x["v"]}, erase=x["beta"] * x["k"])
    for a, b in zip(by_key, recurrent(**x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels", [1, 8])
def test_fast_decay_neither_overflows_nor_loses_its_gradient(channels):
    """exp(-20 c) over a chunk is far below what fp32 can hold, and its inverse far above."""
    x = {k: v if v is None else v.float() for k, v in given(64, channels, True, False, decay=40.0).items()}
    x["log_decay"].requires_grad_()
    o, state = chunked(**x)
    gradient = torch.autograd.grad(o.sum() + state.sum(), x["log_decay"])[0]
    assert o.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(o, recurrent(**x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("delta", [False, True])
def test_a_segment_knows_nothing_of_the_one_before(delta):
    x = given(20, 1, delta, False)
    x["segment"] = torch.tensor([[0] * 5 + [1] * 15, [1] * 20])
    o, state = chunked(**x, chunk=8)
    tail = {k: v if v is None or k in ("state", "segment") else v[:, :, 5:] for k, v in x.items()}
    alone, last = recurrent(**{**tail, "state": torch.zeros_like(x["state"]), "segment": None})
    torch.testing.assert_close(o[0, :, 5:], alone[0])
    torch.testing.assert_close(state[0], last[0])
    fresh, _ = recurrent(**{**x, "state": torch.zeros_like(x["state"]), "segment": None})
    torch.testing.assert_close(o[1], fresh[1])


def test_in_pieces_is_whole():
    x = given(37, 1, True, True)
    whole, last = chunked(**x, chunk=8)
    outputs, state = [], x["state"]
    segment = x["segment"]
    for a, b in ((0, 9), (9, 10), (10, 37)):
        piece = {k: v[:, :, a:b] for k, v in x.items() if k not in ("state", "segment")}
        before = segment[:, a - 1 : a] if a else segment.new_zeros(len(segment), 1)
        o, state = chunked(**piece, state=state, segment=segment[:, a:b] - before)
        outputs.append(o)
    torch.testing.assert_close(torch.cat(outputs, 2), whole)
    torch.testing.assert_close(state, last)
