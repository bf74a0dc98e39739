"""Layers that read what other layers made in the same call; layers that run several times."""

import pytest
import torch
from conftest import small

from ablate.model.decoder import Decoder
from ablate.model.measure import count_costs
from ablate.parts.base import ForwardContext, IncompatibleParts

SHARING = {
    "depth": 3,
    "variants": {"own": {}, "shared": {"attention": {"name": "shared_keys", "kv_heads": 2, "source": 0}}},
    "pattern": ["own", "shared", "own"],
}


def test_shared_keys_are_those_of_the_source(tokens):
    """Against a layer with keys of its own, made from the source's input by the source's weights."""
    m = Decoder(small(**SHARING)).init_parameters(0).double()
    seen = {}
    with torch.no_grad():
        for n in (0, 1):
            m.layers[n].attention.register_forward_hook(lambda mod, x, y, n=n: seen.update({n: (x[0], y)}))
        m(tokens)
        source, sharing = m.layers[0].attention, m.layers[1].attention
        view = m.views(ForwardContext.of(tokens), torch.double)[0]
        _, k, v = source.project(seen[0][0])
        q = sharing.q(seen[1][0]).unflatten(-1, (-1, sharing.head_width)).transpose(1, 2)
        q, k = (view.position.rotate(x, view.where.query) for x in (q, k))
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = sharing.out(heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen[1][1], expected)


def test_sharing_layers_store_nothing(tokens):
    m = Decoder(small(**SHARING)).init_parameters(0)
    memories = m.memories(20)
    with torch.no_grad():
        m(tokens, ForwardContext(torch.arange(20)[None], memories=memories))
    assert [sorted(memory.stored) for memory in memories] == [[0, 2]]
    own, shared = count_costs(Decoder(small(depth=3))), count_costs(m)
    assert shared.kv_bytes * 3 == own.kv_bytes * 2 and shared.cache_bytes * 3 == own.cache_bytes * 2
    assert shared.parameters < own.parameters


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": 1}, "source 1 is not before layer 1"),
        ({"window": 4}, "source 0 has another window"),
        ({"kv_heads": 4}, "source 0 has another kv_heads"),
        ({"bias": ["k"]}, "keys and values are the source's"),
    ],
)
def test_what_cannot_be_shared_is_refused(change, reason):
    attention = {**SHARING["variants"]["shared"]["attention"], **change}
    with pytest.raises(ValueError, match=reason):
        small(**{**SHARING, "variants": {"own": {}, "shared": {"attention": attention}}})
    recurrent = {**SHARING, "variants": {**SHARING["variants"]}, "pattern": ["kda", "shared", "own"]}
    with pytest.raises(ValueError, match="source 0 is kda, which has no keys to share"):
        small(**recurrent)


def test_values_of_the_first_layer_are_added(tokens):
    options = {"name": "value_residual", "kv_heads": 2, "start": 0.5}
    m = Decoder(small(attention=options)).init_parameters(0).double()
    made, inputs = [], []
    with torch.no_grad():
        for layer in m.layers:
            layer.attention.register_forward_hook(lambda mod, x, y: inputs.append(x[0]))
            layer.attention.register_forward_hook(lambda mod, x, y: made.append(y))
        m(tokens)
        first = m.layers[0].attention.project(inputs[0])[2]
        for layer, x, y in zip(m.layers, inputs, made, strict=True):
            q, k, v = layer.attention.project(x)
            view = m.views(ForwardContext.of(tokens), torch.double)[0]
            q, k = (view.position.rotate(z, view.where.query) for z in (q, k))
            k, v = (z.repeat_interleave(2, 1) for z in (k, v + 0.5 * first))
            heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            torch.testing.assert_close(y, layer.attention.out(heads.transpose(1, 2).flatten(2)))


def test_a_loop_is_the_same_layers_written_out(tokens):
    looped = Decoder(small(depth=3, loop={"times": 3, "first": 1, "last": 1})).init_parameters(0).double()
    unrolled = Decoder(small(depth=5)).init_parameters(0).double()
    with torch.no_grad():
        for target, source in enumerate((0, 1, 1, 1, 2)):
            unrolled.layers[target].load_state_dict(looped.layers[source].state_dict())
        for name in ("embedding", "final_norm"):
            getattr(unrolled, name).load_state_dict(getattr(looped, name).state_dict())
        torch.testing.assert_close(looped(tokens), unrolled(tokens), rtol=0, atol=0)
    a, b = count_costs(looped), count_costs(unrolled)
    assert a.parameters < b.parameters
    assert (a.forward_flops, a.kv_bytes, a.cache_bytes) == (b.forward_flops, b.kv_bytes, b.cache_bytes)
    assert a.activation_bytes == b.activation_bytes


def test_a_loop_that_is_none_or_counts_twice_is_refused():
    with pytest.raises(ValueError, match="there are no layers 2 to 5 in a depth of 3"):
        small(loop={"times": 2, "first": 2, "last": 5})
    with pytest.raises(ValueError, match="times is 1, so first and last do nothing"):
        small(loop={"first": 1})
    experts = {"name": "moe", "experts": 4, "expert": {"name": "glu", "width": 24}}
    with pytest.raises(IncompatibleParts, match="ffn moe of layer 0 reports of a call once"):
        Decoder(small(ffn=experts, loop={"times": 2}))
