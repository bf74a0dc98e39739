"""Mean-pooled heads: equal heads change nothing, others become their mean."""

import pytest
import torch
from cases import model
from conftest import small

from ablate.model.decoder import Decoder
from ablate.model.pool import pool_heads

BIASED = {"attention": {"name": "softmax", "kv_heads": 4, "bias": ["q", "k", "v"], "qk_norm": "rmsnorm"}}
LAYERED = {
    "attention": {"name": "softmax", "kv_heads": 4},
    "variants": {"local": {"attention": {"window": 5}}, "global": {}},
    "pattern": ["local", "global", "local"],
}


@pytest.mark.parametrize("case", [BIASED, LAYERED], ids=["biased", "layered"])
def test_pooling_equal_heads_changes_nothing(case, tokens):
    m = model(case)
    with torch.no_grad():
        for name, p in m.named_parameters():
            if any(f"attention.{leaf}." in name for leaf in "kv"):
                heads = p.view(4, 8, *p.shape[1:])
                heads[1], heads[3] = heads[0], heads[2]
    spec, state = pool_heads(m.state_dict(), m.spec, 2)
    pooled = Decoder(spec).double().eval()
    pooled.load_state_dict(state)
    assert {layer.attention.kv_heads for layer in spec.layers()} == {2}
    with torch.no_grad():
        torch.testing.assert_close(pooled(tokens), m(tokens))


def test_a_new_head_is_the_mean():
    m = model(BIASED)
    _, state = pool_heads(m.state_dict(), m.spec, 1)
    for leaf in ("weight", "bias"):
        old = m.state_dict()[f"layers.1.attention.v.{leaf}"]
        expected = (old[:8] + old[8:16] + old[16:24] + old[24:]) / 4
        torch.testing.assert_close(state[f"layers.1.attention.v.{leaf}"], expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        state["layers.1.attention.q.weight"], m.state_dict()["layers.1.attention.q.weight"]
    )


def test_what_cannot_be_pooled():
    m = model({})  # two key-value heads
    with pytest.raises(ValueError, match="kv_heads 3 does not divide the 2 of layer 0"):
        pool_heads(m.state_dict(), m.spec, 3)
    wide = small(attention={"name": "softmax", "qk_norm": "rmsnorm", "qk_norm_over": "width"})
    with pytest.raises(ValueError, match="qk_norm_over is width"):
        pool_heads({}, wide, 2)
