"""The product of linear layers is that of torch, whichever library serves, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from ablate.parts import linear
from ablate.parts.linear import ONEDNN, Linear, product

NO_ONEDNN = pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
LIBRARIES = [pytest.param(True, marks=NO_ONEDNN), False]


@pytest.fixture(params=LIBRARIES, ids=["oneDNN", "torch"])
def library(request, monkeypatch):
    """Both choices are tried, whatever processor this is."""
    monkeypatch.setattr(linear, "BY_HAND", request.param)
    torch.compiler.reset()  # a compiled graph has read it


def given(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 1, 7)])
def test_values_and_gradients_are_those_of_torch(shape, bias, library):
    found = []
    for multiply in (product, F.linear):
        x, w = given(*shape, seed=0), given(6, shape[-1], seed=1)
        b = given(6, seed=2) if bias else None
        y = multiply(x, w, b)
        (y * given(*y.shape, seed=3).detach()).sum().backward()
        found.append([y, x.grad, w.grad] + ([b.grad] if bias else []))
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-5)


def test_an_input_may_lie_in_memory_as_it_likes(library):
    w = given(6, 7, seed=1)
    for x in (given(7, 5, seed=0).t(), given(5, 2, 7, seed=0).transpose(0, 1), given(5, 9, seed=0)[:, 1:8]):
        torch.testing.assert_close(product(x, w), F.linear(x, w), rtol=1e-5, atol=1e-5)
        torch.autograd.grad(product(x, w).sum(), w)


def test_in_a_compiled_graph_it_is_the_same_product_in_one_graph(library):
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    found = []
    for multiply in (compiled, product):
        x, w, b = given(2, 3, 7, seed=0), given(6, 7, seed=1), given(6, seed=2)
        y = multiply(x, w, b)
        y.square().sum().backward()
        found.append((y, x.grad, w.grad, b.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("said", "slow"),
    [
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC", True),
        ("AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", True),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)", False),
        ("CPU implementer\t: 0x41", False),
        ("", False),
    ],
)
def test_the_library_is_chosen_by_the_maker_of_the_processor(said, slow, monkeypatch):
    monkeypatch.setattr(linear, "cpu_description", lambda: said)
    monkeypatch.setattr(linear, "ONEDNN", True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert linear.mkl_is_slow() == slow
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not linear.mkl_is_slow()


@NO_ONEDNN
def test_it_serves_fp32_on_a_cpu_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(linear, "BY_HAND", True)
    real = linear.onednn
    monkeypatch.setattr(linear, "onednn", lambda *given: calls.append(1) or real(*given))
    layer = Linear(4, 3)
    layer(torch.randn(2, 4))
    assert len(calls) == 1
    layer.double()(torch.randn(2, 4).double())
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16
    assert layer(torch.randn(0, 4)).shape == (0, 3)
    assert len(calls) == 1
    monkeypatch.setattr(linear, "BY_HAND", False)
    layer(torch.randn(2, 4))
    assert len(calls) == 1


def test_the_same_bits_on_one_thread_and_on_two(library):
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x, w = given(300, 96, seed=0), given(200, 96, seed=1)
            product(x, w).square().sum().backward()
            found.append((x.grad, w.grad))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
