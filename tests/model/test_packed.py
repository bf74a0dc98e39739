"""A decoder laid out for reading says what the decoder says, for every part there is."""

import pytest
import torch
from cases import CASES, model

from ablate.model import generate as generating
from ablate.model import packed as packing
from ablate.model.decoder import Decoder
from ablate.model.generate import complete
from ablate.model.packed import Joined, Packed, packable, packed
from ablate.parts.base import ForwardContext
from ablate.parts.linear import Linear
from ablate.parts.memory import RollingCache

PROMPT = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
APART = {"hard:canon"}  # a convolution stands behind each of its projections, so none are joined
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def logits(reader: Decoder, decoder: Decoder, rows: int = 2) -> torch.Tensor:
    """Of a prompt and of two tokens after it, through a cache."""
    memories, tokens = decoder.memories(8), PROMPT[:rows]
    prefix = torch.tensor([5] * rows) if any(group.prefix for group in decoder.groups) else None
    found = [reader(tokens, ForwardContext(torch.arange(5)[None], None, prefix, memories))]
    found += [
        reader(tokens[:, n : n + 1], ForwardContext(torch.tensor([[5 + n]]), None, prefix, memories))
        for n in (0, 1)
    ]
    return torch.cat(found, 1)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_it_says_the_same(name, rows):
    decoder = model(CASES[name], dtype=torch.float32)
    assert packable(decoder)
    twin = packed(decoder)
    assert not any(isinstance(m, Linear) for m in twin.modules())
    assert any(isinstance(m, Joined) for m in twin.modules()) or name in APART
    said = logits(decoder, decoder, rows)
    torch.testing.assert_close(logits(twin, decoder, rows), said, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("intel", [True, False])
@pytest.mark.parametrize("rows", [1, 2])
@torch.inference_mode()
def test_every_layout_is_the_same_product(intel, rows, monkeypatch):
    monkeypatch.setattr(packing, "INTEL", intel)
    layers = [Linear(24, 16, bias=True), Linear(24, 8, bias=True)]
    joined, x = Joined(layers), torch.randn(rows, 1, 24)
    for made, layer in zip(joined.all(x), layers, strict=True):
        torch.testing.assert_close(made, layer(x))
        torch.testing.assert_close(Packed([layer.weight], layer.bias)(x), layer(x))


def test_a_lone_matrix_of_a_single_row_is_not_copied_on_intel(monkeypatch):
    monkeypatch.setattr(packing, "INTEL", True)
    layer = Linear(24, 16)
    assert Packed([layer.weight], None).rows.data_ptr() == layer.weight.data_ptr()


@torch.inference_mode()
def test_a_restarting_memory_turns_the_keys_as_it_reads_them():
    decoder = model({"position": "rope", "attention": {"name": "softmax", "window": 4}}, dtype=torch.float32)
    said = []
    for reader in (decoder, packed(decoder)):
        memories = [RollingCache(4, restart=True) for _ in decoder.groups]
        said.append(
            [
                reader(PROMPT[:, n % 5, None], ForwardContext(torch.tensor([[n]]), memories=memories))[:, -1]
                for n in range(12)
            ]
        )
    torch.testing.assert_close(said[1], said[0], rtol=1e-4, atol=1e-4)


def test_the_decoder_is_left_as_it_was_and_shares_what_is_no_matrix():
    decoder = model({}, dtype=torch.float32)
    before = {name: p.clone() for name, p in decoder.named_parameters()}
    twin = packed(decoder)
    assert not any(isinstance(m, Packed | Joined) for m in decoder.modules())
    assert all(torch.equal(p, before[name]) for name, p in decoder.named_parameters())
    assert twin.embedding.weight is decoder.embedding.weight


@pytest.mark.parametrize("hooked", ["q", "v", "out"])
def test_a_layer_with_hooks_keeps_them(hooked):
    decoder = model({}, dtype=torch.float32)
    called = []
    layer = getattr(decoder.layers[1].attention, hooked)
    layer.register_forward_hook(lambda *_: called.append(1))
    twin = packed(decoder)
    torch.testing.assert_close(logits(twin, decoder), logits(decoder, decoder), rtol=1e-4, atol=1e-4)
    assert len(called) == 6
    assert type(layer) is Linear


@pytest.mark.parametrize("options", [{}, {"interleaved": True}, {"rotary_fraction": 0.5}])
@torch.inference_mode()
def test_a_rotation_is_a_matrix(options):
    decoder = model({"position": {"name": "rope", **options}}, dtype=torch.float32)
    rope, lean = decoder.positions[0], packed(decoder).positions[0]
    x = torch.randn(2, 4, 1, decoder.shape.head_width)
    for at in (torch.tensor([[7]]), torch.tensor([[3], [11]])):
        torch.testing.assert_close(lean.query(x, lean.locate(at)), rope.query(x, rope.locate(at)))


def test_joined_layers_refuse_another_input():
    decoder = model({}, dtype=torch.float32)
    attention = packed(decoder).layers[0].attention
    x = torch.randn(1, 2, decoder.shape.width)
    attention.q(x)
    attention.k(x)
    with pytest.raises(RuntimeError, match="same input"):
        attention.k(x.clone())


def test_generation_goes_on_from_the_plain_prompt(monkeypatch):
    decoder = model({}, dtype=torch.float32)
    prompts = [[1, 2, 3], [4, 5, 6]]
    used = []
    monkeypatch.setattr(generating, "packed", lambda d: used.append(1) or packed(d))
    plain = complete(decoder, prompts, generating.PACKING_TOKENS)
    assert not used
    longer = complete(decoder, prompts, generating.PACKING_TOKENS + 4)
    assert used == [1]
    assert [row[: len(plain[0])] for row in longer] == plain


class Doubled(Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Halved(torch.nn.Identity):
    def forward(self, x):
        return x / 2


class Odd(torch.nn.Module):
    """Calls what others call first second, reads a matrix, and overrides what is known."""

    def __init__(self, shape):
        super().__init__()
        self.gate, self.up = Linear(shape.width, 40), Linear(shape.width, 40)
        self.down, self.less = Doubled(40, shape.width), Halved()

    def forward(self, x, aux):
        u = self.up(x) + self.gate(x / 3)
        return self.less(self.down(u)) + u @ self.up.weight


@torch.inference_mode()
def test_a_part_of_ones_own_says_the_same():
    decoder = model({}, dtype=torch.float32)
    for layer in decoder.layers:
        layer.ffn = Odd(decoder.shape)
    torch.testing.assert_close(
        logits(packed(decoder), decoder), logits(decoder, decoder), rtol=1e-4, atol=1e-4
    )
