"""Each kernel against the reference, which is the definition."""

import pytest
import torch
from torch import Tensor

from ablate.parts.base import Call, Fresh, Kernel, Mask, Scores, Sight
from ablate.registry import kernel, position
from ablate.spec import Shape

HEADS = 4


def sight(length: int, **told: Tensor) -> Sight:
    return Fresh().look(Call(torch.arange(length)[None], **told)).sight


def leaves(length: int, rows: int = 2, kv_heads: int = 2, width: int = 8, value_width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(HEADS, width), (kv_heads, width), (kv_heads, value_width)]
    return [
        torch.randn(rows, h, length, d, dtype=torch.double, generator=generator).requires_grad_() for h, d in shapes
    ]


def attend(name: str, given: list[Tensor], mask: Mask, seen: Sight, bias=None, **scores) -> Tensor:
    k: Kernel = kernel.build(name)
    prepared = k.prepare(mask, seen, bias, HEADS, given[0].dtype)
    return k(*given, prepared, Scores(0.3, **scores), 0.0)


def assert_agree(name: str, given: list[Tensor], mask: Mask, seen: Sight, bias=None, learned=(), **scores) -> None:
    """Values and gradients, to the last digits of fp64. What padding sees of padding is nobody's concern."""
    a, b = (attend(k, given, mask, seen, bias, **scores) for k in ("reference", name))
    if seen.documents is not None:
        padding = (seen.documents[0] < 0)[:, None, :, None]
        a, b = a.masked_fill(padding, 0), b.masked_fill(padding, 0)
    torch.testing.assert_close(b, a, atol=1e-12, rtol=0)
    weight = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(0))
    of = [*given, *learned]
    for x, y in zip(torch.autograd.grad(a, of, weight), torch.autograd.grad(b, of, weight), strict=True):
        torch.testing.assert_close(y, x, atol=1e-11, rtol=0)


# ------------------------------------------------------------------------------------------- chunked

LENGTHS = [40, 50, 64, 97, 100, 128]
KEPT = [0, 1, 2, 3, 4, 5]
alibi = position.build("alibi", Shape(32, 1, HEADS, 8, 128, 50))


@pytest.mark.parametrize("window", [1, 5, 7, 16, 64])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_is_exact(length, window):
    given, seen = leaves(length), sight(length)
    for keep in KEPT:
        for bias in (None, alibi.bias):
            assert_agree("chunked", given, Mask(window, keep), seen, bias)


@pytest.mark.parametrize("keep", [0, 2, 9])
def test_chunked_keeps_documents_apart(keep):
    """Documents of very different lengths, other borders in each row, with padding in front."""
    lengths = [[3, 1, 1, 40, 6, 29, 20], [30, 70], [1] * 20 + [80]]
    document = torch.tensor([[d for d, n in enumerate(row) for _ in range(n)] for row in lengths])
    document[1, :30] = -1
    at = torch.tensor([[p for n in row for p in range(n)] for row in lengths])
    at[1, :30] -= 30
    seen = Fresh().look(Call(at, document)).sight
    for bias in (None, alibi.bias):
        assert_agree("chunked", leaves(100, rows=3), Mask(7, keep), seen, bias)


def test_chunked_with_a_sink_logit_a_learned_bias_and_narrow_values():
    t5 = position.build("t5", Shape(32, 1, HEADS, 8, 128, 50)).double()
    sink = torch.randn(HEADS, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for kv_heads in (1, 2, 4):
        given = leaves(50, kv_heads=kv_heads, width=12, value_width=8)
        assert_agree("chunked", given, Mask(6, 2), sight(50), t5.bias, [sink, t5.table.weight], sink=sink)


def test_chunked_sees_by_positions_that_start_late_or_leave_gaps():
    at = torch.cat((torch.arange(3, 40), torch.arange(50, 80)))[None]
    seen = Fresh().look(Call(at)).sight
    assert_agree("chunked", leaves(67), Mask(8, 5), seen, alibi.bias)
