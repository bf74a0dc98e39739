"""Differential and forgetting attention against their equations, written out."""

from math import exp

import pytest
import torch
from cases import model
from conftest import small

from ablate.model.decoder import Decoder
from ablate.model.measure import count_costs
from ablate.parts.base import ForwardContext

GATED = {"name": "forgetting", "kv_heads": 2}
PAIRS = {"name": "differential", "kv_heads": 2, "norm": {"name": "rmsnorm", "weight": False}}


def layer_of(attention, tokens, n=0):
    """(the part of layer n, what it read, what it gave) without a position."""
    m, seen = model({"attention": attention, "position": "none", "depth": n + 1}), {}
    m.layers[n].attention.register_forward_hook(lambda mod, x, y: seen.update(x=x[0], y=y))
    with torch.no_grad():
        m(tokens)
    return m.layers[n].attention, seen["x"], seen["y"]


def heads_of(part, x):
    q, k, v = part.project(x)
    k, v = (y.repeat_interleave(2, 1) for y in (k, v))
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    return (q @ k.mT * part.scale).masked_fill(~causal, -torch.inf), v


def test_forgetting_adds_the_logarithms_of_the_gates_since_a_key(tokens):
    part, x, y = layer_of(GATED, tokens)
    with torch.no_grad():
        s, v = heads_of(part, x)
        log_f = part.forget(x).sigmoid().log()
        for i in range(20):
            for j in range(i + 1):
                s[:, :, i, j] += log_f[:, j + 1 : i + 1].sum(1)
        expected = part.out((s.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(y, expected)


def test_gates_that_forget_nothing_leave_softmax(tokens):
    m, plain = model({"attention": GATED}), model({})
    with torch.no_grad():
        for layer in m.layers:
            layer.attention.forget.weight.zero_()
            layer.attention.forget.bias.fill_(60.0)
        plain.load_state_dict(m.state_dict(), strict=False)
        torch.testing.assert_close(m(tokens), plain(tokens))
        m.layers[0].attention.forget.bias.fill_(0.0)
        assert not torch.allclose(m(tokens), plain(tokens))


@pytest.mark.parametrize("n", [0, 2])
def test_the_second_map_is_taken_out_of_the_first(n, tokens):
    part, x, y = layer_of(PAIRS, tokens, n)
    with torch.no_grad():
        s, v = heads_of(part, x)
        start = 0.8 - 0.6 * exp(-0.3 * n)
        share = exp(part.lambda_q1 @ part.lambda_k1) - exp(part.lambda_q2 @ part.lambda_k2) + start
        pairs = []
        for h in range(2):  # of heads h and h + 2
            values = torch.cat((v[:, h], v[:, h + 2]), -1)
            o = (s[:, h].softmax(-1) - share * s[:, h + 2].softmax(-1)) @ values
            pairs.append((1 - start) * o * (o.square().mean(-1, keepdim=True) + part.norm.eps).rsqrt())
        expected = part.out(torch.cat(pairs, -1))
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("attention", [GATED, PAIRS], ids=["forgetting", "differential"])
def test_the_memory_is_as_counted(attention, tokens):
    m = Decoder(small(attention=attention)).init_parameters(0)
    memories = m.memories(20)
    with torch.no_grad():
        m(tokens, ForwardContext(torch.arange(20)[None], memories=memories))
    stored = sum(x[0].nbytes for memory in memories for pair in memory.stored.values() for x in pair)
    costs = count_costs(m, context=20, value_bytes=4)
    assert costs.cache_bytes == stored and costs.kv_bytes == stored / 20


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        ({**GATED, "window": 4}, "which the memory of a window does not keep"),
        ({**GATED, "mask": "prefix"}, "in a prefix keys stand after the query"),
        ({**PAIRS, "kv_heads": 1}, "heads stand in pairs, and there are 4 with 1 key-value heads"),
        ({**PAIRS, "exclusive": True}, "here a pair of heads has two"),
        ({**PAIRS, "gate": "head"}, "say gate=channel"),
        ({**PAIRS, "dropout": 0.1}, "say dropout=0"),
    ],
)
def test_what_has_no_meaning_is_refused(attention, reason):
    with pytest.raises(ValueError, match=reason):
        small(attention=attention)
