"""The loss in slices of tokens is the loss of the whole logits, which are never in memory."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ablate.model import loss
from ablate.model.head import Head
from ablate.spec import HeadSpec

B, T, C, V = 3, 7, 8, 50
N = B * T
SLICE = 4 * V * 4  # four tokens: the last slice has one


def head(dtype: torch.dtype = torch.float64, **options) -> Head:
    torch.manual_seed(0)
    made = Head(HeadSpec(**options), C, V)
    for p in made.parameters():
        torch.nn.init.normal_(p)
    return made.to(dtype)


def given(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, table = (torch.randn(*shape, C, generator=generator, dtype=torch.float64) for shape in ((B, T), (V,)))
    targets = torch.randint(V, (B, T), generator=generator)
    targets[0, :5] = targets[2, 3] = -100  # a whole slice has none
    return x.to(dtype).requires_grad_(), table.to(dtype).requires_grad_(), targets


def gradients(found: torch.Tensor, made: Head, x: torch.Tensor, table: torch.Tensor) -> list[torch.Tensor]:
    wanted = [x, *made.parameters()] if made.weight is not None else [x, table, *made.parameters()]
    return list(torch.autograd.grad(found, wanted))


def by_token(made: Head, x, table, targets) -> list[torch.Tensor]:
    """Losses of a weight of their own, so that no two tokens have the same gradient."""
    found = made.loss(x, table, targets)
    weights = torch.linspace(0.5, 2, N).view(B, T)
    total = (found.nll * weights).sum()
    if found.z is not None:
        total = total + (found.z * weights.square()).sum()
    return [found.nll, *([] if found.z is None else [found.z]), *gradients(total, made, x, table)]


def summed(made: Head, x, table, targets) -> list[torch.Tensor]:
    found = made.sums(x, table, targets)
    assert found.objective.requires_grad and not found.nll.requires_grad
    return [*found, *gradients(found.objective / 3, made, x, table)]


HEADS = [
    {"tied": tied, "bias": bias, "softcap": cap, "z_loss": z}
    for tied, bias, cap, z in itertools.product((True, False), (True, False), (None, 2.0), (0.0, 0.1))
]
TRANSFORM = {"activation": "gelu", "norm": "layernorm", "bias": True}
HEADS.append({"tied": True, "bias": True, "z_loss": 0.1, "multiplier": 0.7, "transform": TRANSFORM})


@pytest.mark.parametrize("options", HEADS, ids=str)
@pytest.mark.parametrize("way", [by_token, summed])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_slices_are_the_whole(way, options, dtype, close, monkeypatch):
    made = head(dtype, **options)
    whole = way(made, *given(dtype))
    monkeypatch.setattr(loss, "LOGITS_SLICE", SLICE)
    assert loss.slice_of(N, V) == 4
    if "transform" in options:  # its norm divides by deviations that are small here
        close *= 4
    for one, other in zip(way(made, *given(dtype)), whole, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=close, atol=close)


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_the_sums_are_those_of_the_losses_by_token(options):
    made, inputs = head(**options), given()
    each = made.loss(*inputs)
    objective = each.nll.sum() + (0.0 if each.z is None else made.z_loss * each.z.sum())
    expected = [objective, each.nll.sum(), *gradients(objective / 3, made, *inputs[:2])]
    for one, other in zip(summed(made, *inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("way", [by_token, summed])
def test_under_autocast_too(way, softcap, monkeypatch):
    made = head(torch.float32, softcap=softcap, z_loss=0.1, bias=True)
    exact = way(made, *given(torch.float32))
    found = []
    for size in (loss.LOGITS_SLICE, SLICE):
        monkeypatch.setattr(loss, "LOGITS_SLICE", size)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(way(made, *given(torch.float32)))
    for one, other, true in zip(*found, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)
        assert not torch.equal(one, true), "the products were in fp32"


@pytest.mark.parametrize("way", [by_token, summed])
def test_compiled_it_is_one_graph(way, monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_SLICE", SLICE)
    made = head(torch.float32, softcap=2.0, z_loss=0.1, bias=True)
    eager = way(made, *given(torch.float32))
    for method in ("loss", "sums"):
        compiled = torch.compile(getattr(made, method), fullgraph=True, backend="aot_eager")
        monkeypatch.setattr(made, method, compiled)
    for one, other in zip(way(made, *given(torch.float32)), eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the most elements of a tensor that an operator gave, within the loss's own, too."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.ablate.loss_in_slices.default:
            with self:
                return loss._in_slices(*args)
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *(x.untyped_storage().size() // x.itemsize for x in tensors)])
        return out


@pytest.mark.parametrize("options", HEADS, ids=str)
@pytest.mark.parametrize("way", [by_token, summed])
def test_no_tensor_holds_all_logits(way, options, monkeypatch):
    made = head(torch.float32, **options)
    seen = []
    for size in (loss.LOGITS_SLICE, SLICE):
        monkeypatch.setattr(loss, "LOGITS_SLICE", size)
        inputs = given(torch.float32)
        with Largest() as largest:
            way(made, *inputs)
        seen.append(largest.elements)
    assert seen == [N * V, V * C], "the largest tensor is the gradient of the weight"


def test_without_gradients_there_are_slices_too(monkeypatch):
    made, inputs = head(torch.float32), given(torch.float32)
    monkeypatch.setattr(loss, "LOGITS_SLICE", SLICE)
    with torch.no_grad(), Largest() as largest:
        found, sums = made.loss(*inputs), made.sums(*inputs)
    assert largest.elements <= V * C < N * V  # the weight itself is the largest
    torch.testing.assert_close(found.nll.sum(), sums.nll)


def test_small_logits_are_not_cut():
    assert loss.slice_of(64 * 1024, 256) == 64 * 1024
    assert loss.slice_of(64 * 1024, 32_000) == 524
    assert loss.slice_of(1, 10**9) == 1


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.bfloat16, 0.01)])
def test_what_the_compiler_is_given_is_what_is_computed_in_place(dtype, close, softcap, z_loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, V, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(V, (9, 1), generator=generator)
    y[3] = y[7] = -100
    one = loss.joined(logits, y, softcap, z_loss)
    other = loss.in_place(logits.clone(), y, softcap, z_loss)
    for x, z in zip(one, other, strict=True):
        torch.testing.assert_close(x.double(), z.double(), rtol=close, atol=close)
    assert one[2].dtype == dtype and (one[2][3] == 0).all()
