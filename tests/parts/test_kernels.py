"""Each kernel against the reference, which is the definition."""

import sys
import types
from dataclasses import replace

import pytest
import torch
from cases import HARD, model
from conftest import small
from sampled import sampled
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.generate import complete
from ablate.parts.base import (
    AttentionPositions,
    ForwardContext,
    IncompatibleParts,
    Kernel,
    KernelRequirements,
    Mask,
    NoCache,
    Scores,
)
from ablate.parts.memory import Cache, RollingCache
from ablate.registry import kernel, position
from ablate.spec import Shape

HEADS = 4
alibi = position.build("alibi", Shape(32, 1, HEADS, 8, 128, 50))


def sight(length: int, **told: Tensor) -> AttentionPositions:
    return NoCache().look(ForwardContext(torch.arange(length)[None], **told)).sight


def leaves(
    length: int, rows: int = 2, kv_heads: int = 2, width: int = 8, value_width: int = 8
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(HEADS, width), (kv_heads, width), (kv_heads, value_width)]
    return [
        torch.randn(rows, h, length, d, dtype=torch.double, generator=generator).requires_grad_()
        for h, d in shapes
    ]


def attend(
    name: str, given: list[Tensor], mask: Mask, seen: AttentionPositions, bias=None, **scores
) -> Tensor:
    k: Kernel = kernel.build(name)
    prepared = k.prepare(mask, seen, bias, HEADS, given[0].dtype)
    return k(*given, prepared, Scores(0.3, **scores), 0.0)


def assert_agree(
    name: str, given: list[Tensor], mask: Mask, seen: AttentionPositions, bias=None, learned=(), **scores
) -> None:
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


# ---------------------------------------------------------------------------------------------- sdpa


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("acts", ["order", "window", "bias", "sink"])
def test_a_single_query_of_heads_that_share_keys(kv_heads, acts):
    """Remembered keys, and one query of each head."""
    q, k, v = leaves(31, kv_heads=kv_heads, width=12, value_width=8)
    memory = Cache(31)
    memory.look(ForwardContext(torch.arange(30)[None]))
    seen = memory.look(ForwardContext(torch.tensor([[30]]))).sight
    bias = alibi.bias if acts == "bias" else None
    sink = {"sink": torch.arange(HEADS, dtype=torch.double)} if acts == "sink" else {}
    assert_agree("sdpa", [q[:, :, -1:], k, v], Mask(9 if acts == "window" else None), seen, bias, **sink)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("acts", ["order", "window", "bias"])
def test_short_rows_in_bf16_have_the_gradient_of_fp32(acts, autocast):
    """On a CPU: rounded once, at the end."""
    mask = Mask(9 if acts == "window" else None)
    exact = [x.detach().bfloat16().float().requires_grad_() for x in leaves(31)]
    halved = [x.detach().bfloat16().requires_grad_() for x in exact]
    found = []
    for given in (exact, halved):
        with torch.autocast("cpu", torch.bfloat16, autocast and given is halved):
            y = attend("sdpa", given, mask, sight(31), alibi.bias if acts == "bias" else None)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).bfloat16().to(y.dtype)
        found.append([y, *torch.autograd.grad(y, given, weight)])
    for x, y in zip(*found, strict=True):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, x.bfloat16(), atol=0, rtol=0)


def test_a_single_query_behind_a_window_needs_no_mask():
    memory, sdpa = RollingCache(5), kernel.build("sdpa")
    memory.look(ForwardContext(torch.arange(3)[None]))
    for n in range(3, 9):
        seen = memory.look(ForwardContext(torch.tensor([[n]]))).sight
        assert seen.j.shape[1] == min(n + 1, 5)
        assert Mask(5).dense(seen).all()
        assert sdpa.prepare(Mask(5), seen, None, HEADS, torch.double).mask is None


# ------------------------------------------------------------------------------------------- chunked

LENGTHS = [40, 50, 64, 97, 100, 128]
KEPT = [0, 1, 2, 3, 4, 5]


def test_a_layer_without_a_window_is_no_matter_of_blocks():
    chunked = kernel.build("chunked")
    assert [chunked.for_mask(mask).name for mask in (Mask(), Mask(chunk=4), Mask(8))] == [
        "sdpa",
        "sdpa",
        "chunked",
    ]


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
    seen = NoCache().look(ForwardContext(at, document)).sight
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
    seen = NoCache().look(ForwardContext(at)).sight
    assert_agree("chunked", leaves(67), Mask(8, 5), seen, alibi.bias)


# ---------------------------------------------------------------------------------------------- flex


@pytest.mark.parametrize("mask", [Mask(), Mask(7), Mask(7, 2), Mask(prefix=True)], ids=str)
def test_flex_computes_what_the_reference_does(mask):
    """Forward only: torch has no backward pass of it on the CPU."""
    t5 = position.build("t5", Shape(32, 1, HEADS, 8, 128, 50)).double()
    at = torch.cat((torch.arange(20), torch.arange(30))).expand(2, -1)
    border = (torch.arange(50) >= 20).long().expand(2, -1)
    sink = torch.randn(HEADS, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    given = [x.detach() for x in leaves(50, width=12)]
    with torch.no_grad():
        for told in ({}, {"document": border}, {"prefix": torch.tensor([9, 30])}):
            seen = (
                NoCache()
                .look(ForwardContext(at if "document" in told else torch.arange(50)[None], **told))
                .sight
            )
            for bias, scores in (
                (None, {}),
                (alibi.bias, {"sink": sink}),
                (t5.bias, {"softcap": 3.0, "sink": sink}),
            ):
                a, b = (attend(name, given, mask, seen, bias, **scores) for name in ("reference", "flex"))
                torch.testing.assert_close(b, a, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sampled(HARD, 3))
def test_flex_carries_the_hard_models_forward(name, tokens):
    case = HARD[name]
    reference = model({**case, "kernel": "reference"})
    try:
        flex = Decoder(small(**{**case, "kernel": "flex"}), training=False).double().eval()
    except IncompatibleParts as refused:
        if "adds no scores that a layer makes of the text" not in str(refused):
            raise
        pytest.skip("flex is refused")
    flex.load_state_dict(reference.state_dict())
    call = ForwardContext.ragged(torch.tensor([20, 13]), 20)
    with torch.no_grad():
        torch.testing.assert_close(flex(tokens), reference(tokens))
        real = call.document >= 0
        torch.testing.assert_close(flex(tokens, call)[real], reference(tokens, call)[real])
        assert complete(flex, [[1, 2, 3], [4]], 4) == complete(reference, [[1, 2, 3], [4]], 4)


def test_flex_says_where_it_has_no_backward_pass():
    with pytest.raises(IncompatibleParts, match="kernel flex: has no backward pass on cpu"):
        Decoder(small(kernel="flex"))


# --------------------------------------------------------------------------------------------- flash

GPU = KernelRequirements(
    heads=HEADS,
    kv_heads=2,
    key_width=8,
    value_width=8,
    mask=Mask(),
    device="cuda",
    dtype=torch.bfloat16,
)


def install(monkeypatch, module: str, attend_with) -> None:
    for name in ("flash_attn_interface", "flash_attn", "flash_attn.cute"):
        fake = types.ModuleType(name) if name == module else None  # None: not to be found
        if fake is not None:
            fake.flash_attn_func = attend_with  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, fake)
    if module == "flash_attn.cute":
        monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))


def written_out(q, k, v, softmax_scale, causal, window_size, softcap=0.0, alibi_slopes=None, dropout_p=0.0):
    """What flash_attn_func documents: (B,T,H,D), a window that counts the keys to the left of the query, the
    bias -slope |i - j|; by plain arithmetic."""
    assert causal
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    n = torch.arange(q.shape[2])
    distance = n[:, None] - n
    s = q @ k.mT * softmax_scale
    if softcap:
        s = softcap * (s / softcap).tanh()
    if alibi_slopes is not None:
        assert alibi_slopes.dtype == torch.float32
        s = s - alibi_slopes[:, None, None] * distance.abs()
    left = window_size[0]
    hidden = (distance < 0) | (distance > left if left not in (-1, None) else False)
    return (s.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("module", ["flash_attn_interface", "flash_attn", "flash_attn.cute"])
def test_flash_says_what_it_means(module, monkeypatch):
    def library(*qkv, **given):
        y = written_out(*qkv, **given)
        return (y, None) if module == "flash_attn.cute" else y

    install(monkeypatch, module, library)
    served, reasons = 0, []
    for mask in (Mask(), Mask(1), Mask(7)):
        for bias in (None, alibi.bias):
            for cap in (None, 3.0):
                need = replace(
                    GPU, mask=mask, bias=bias is not None, slopes=bias is not None, softcap=cap is not None
                )
                try:
                    flash = kernel.build("flash").settle([need])
                except IncompatibleParts as refusal:
                    reasons.append(str(refusal))
                    continue
                served += 1
                given, seen = leaves(30), sight(30)
                y = flash(*given, flash.prepare(mask, seen, bias, HEADS, torch.double), Scores(0.3, cap), 0.0)
                torch.testing.assert_close(y, attend("reference", given, mask, seen, bias, softcap=cap))
    assert all("has no" in reason for reason in reasons)
    assert served == {"flash_attn": 12, "flash_attn_interface": 6, "flash_attn.cute": 3}[module]


def test_flash_leaves_remembered_keys_and_padding_to_the_reference(monkeypatch):
    def library(*_, **__):
        raise AssertionError("it has no words for this")

    install(monkeypatch, "flash_attn", library)
    flash = kernel.build("flash").settle([GPU])
    call = ForwardContext.ragged(torch.tensor([30, 20]), 30)
    memory = Cache(31)
    for seen, given in (
        (NoCache().look(call).sight, leaves(30)),
        (
            memory.look(ForwardContext(torch.arange(30)[None]))
            and memory.look(ForwardContext(torch.tensor([[30]]))).sight,
            None,
        ),
    ):
        if given is None:
            q, k, v = leaves(31)
            given = [q[:, :, -1:], k, v]
        y = flash(*given, flash.prepare(Mask(9), seen, None, HEADS, torch.double), Scores(0.3), 0.0)
        torch.testing.assert_close(y, attend("reference", given, Mask(9), seen))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "cpu"}, "runs on CUDA"),
        ({"dtype": torch.float32}, "precision=bf16"),
        ({"bias": True}, "biases other than ALiBi"),
        ({"bias": True, "slopes": True, "learned_bias": True}, "learned biases"),
        ({"sink": True}, "sink logits"),
        ({"mask": Mask(5, sink_tokens=1)}, "kept first keys"),
        ({"mask": Mask(prefix=True)}, "prefixes"),
        ({"documents": True}, "document borders"),
        ({"key_width": 16}, "keys wider than values"),
        ({"key_width": 12, "value_width": 12}, "multiple of 8"),
        ({"key_width": 512, "value_width": 512}, "at most 256 channels"),
    ],
)
def test_flash_refuses_with_the_reason(asked, said, monkeypatch):
    install(monkeypatch, "flash_attn", written_out)
    assert kernel.build("flash").refuses(GPU) is None
    assert said in str(kernel.build("flash").refuses(replace(GPU, **asked)))


def test_flash_says_how_it_is_installed(monkeypatch):
    install(monkeypatch, "nothing", None)
    with pytest.raises(IncompatibleParts, match=r"is not installed.*pip install flash-attn"):
        kernel.build("flash").settle([GPU])


# ---------------------------------------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"device": "cpu"}, "chunked"),
        ({"device": "cpu", "softcap": True}, "reference"),
        ({"device": "cpu", "mask": Mask(5, prefix=True)}, "sdpa"),
        ({"key_width": 64, "value_width": 64}, "sdpa"),
        ({"key_width": 64, "value_width": 64, "mask": Mask(5)}, "flex"),
        ({"key_width": 64, "value_width": 64, "mask": Mask(5), "dropout": 0.1}, "sdpa"),
    ],
)
def test_auto_takes_the_first_that_serves(asked, chosen, monkeypatch):
    install(monkeypatch, "nothing", None)
    assert kernel.build("auto").settle([replace(GPU, **asked)]).name == chosen


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [({}, "sdpa"), ({"mask": Mask(5)}, "flash"), ({"bias": True, "learned_bias": True}, "sdpa")],
)
def test_where_flash_is_installed_auto_takes_it_for_what_sdpa_does_slowly(asked, chosen, monkeypatch):
    install(monkeypatch, "flash_attn", written_out)
    assert kernel.build("auto").settle([replace(GPU, **asked)]).name == chosen
