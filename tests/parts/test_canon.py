"""Canon layers at the points A to D of a block."""

import pytest
import torch
from cases import model
from conftest import small

from ablate.model.decoder import Decoder
from ablate.model.measure import count_costs
from ablate.parts.base import ForwardContext, IncompatibleParts

ALL = {
    "topology": "canon",
    "attention": {"name": "canon", "kv_heads": 2},
    "ffn": {"name": "canon", "width": 40},
}


def mixed(part, x):
    """x plus its convolution, token by token."""
    w = part.convolution.weight[:, 0]
    y = x.clone()
    for t in range(x.shape[1]):
        for back in range(min(w.shape[1], t + 1)):
            y[:, t] += w[:, -1 - back] * x[:, t - back]
    return y


def test_each_point_reads_the_last_tokens(tokens):
    """A block written out: A before attention, B on its projections, C before the feed-forward, D inside."""
    m, seen = model({**ALL, "depth": 1, "position": "none"}), {}
    layer = m.layers[0]
    layer.register_forward_hook(lambda mod, given, y: seen.update(x=given[0], y=y))
    with torch.no_grad():
        m(tokens)
        x, attention, ffn = seen["x"], layer.attention, layer.ffn
        u = mixed(layer.canons["a"], layer.attention_residual.input_norm(x))
        q, k, v = (mixed(getattr(attention, f"{n}_canon"), getattr(attention, n)(u)) for n in "qkv")
        q, k, v = (y.unflatten(-1, (-1, 8)).transpose(1, 2) for y in (q, k, v))
        k, v = (y.repeat_interleave(2, 1) for y in (k, v))
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attention.out(heads.transpose(1, 2).flatten(2))
        u = mixed(layer.canons["c"], layer.ffn_residual.input_norm(x))
        gate, up = mixed(ffn.gate_canon, ffn.gate(u)), mixed(ffn.up_canon, ffn.up(u))
        expected = x + ffn.down(ffn.activation(gate) * up)
    torch.testing.assert_close(seen["y"], expected)


def test_without_weights_they_are_not_there(tokens):
    m, plain = model(ALL), model({"attention": {"name": "softmax", "kv_heads": 2}})
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "convolution" in name:
                p.zero_()
        plain.load_state_dict(m.state_dict(), strict=False)
        torch.testing.assert_close(m(tokens), plain(tokens), rtol=0, atol=0)


@pytest.mark.parametrize("points", [["a"], ["c"]])
def test_points_are_chosen_apart(points, tokens):
    m = model({"topology": {"name": "canon", "points": points}})
    assert [list(layer.canons) for layer in m.layers] == [points] * 3
    plain = model({})
    plain.load_state_dict(m.state_dict(), strict=False)
    with torch.no_grad():
        assert not torch.allclose(m(tokens), plain(tokens))


def test_the_memory_is_as_counted(tokens):
    m, plain = (Decoder(small(**case)).init_parameters(0) for case in (ALL, {}))
    memories = m.memories(20)
    with torch.no_grad():
        m(tokens, ForwardContext(torch.arange(20)[None], memories=memories))
    tails = sum(
        x[0].nbytes for memory in memories for x in memory.stored.values() if isinstance(x, torch.Tensor)
    )
    assert tails == count_costs(m, value_bytes=4).cache_bytes - count_costs(plain, value_bytes=4).cache_bytes
    assert count_costs(m, value_bytes=4).kv_bytes == count_costs(plain, value_bytes=4).kv_bytes


def test_what_layers_leave_is_freed_with_the_call(tokens):
    """What a call shares holds no tensor that holds it."""
    import gc
    import weakref

    m = model(ALL)
    kept = []
    m.layers[0].attention.q.register_forward_hook(lambda mod, x, y: kept.append(weakref.ref(y)))
    gc.disable()
    try:
        m(tokens).sum().backward()
        assert kept[0]() is None
    finally:
        gc.enable()


def test_where_it_cannot_stand_is_refused():
    with pytest.raises(ValueError, match="has no points, so it is topology=serial"):
        small(topology={"name": "canon", "points": []})
    with pytest.raises(ValueError, match="experts are given tokens without those"):
        small(ffn={"name": "moe", "experts": 4, "expert": {"name": "canon", "width": 24}})
    with pytest.raises(IncompatibleParts, match="a Canon layer of layer 1 remembers the inputs of one pass"):
        Decoder(small(**ALL, loop={"times": 2, "first": 1, "last": 1}))
