"""Routed experts against a loop over tokens, and their rules one by one."""

import pytest
import torch
from conftest import small
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import ffn
from ablate.spec import Shape

SHAPE = Shape(width=16, depth=2, heads=2, head_width=8, context=24, vocab=50)
SCORES = ("selected", "all", "renormalised", "sigmoid")
X = torch.randn(3, 24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def moe(**options) -> nn.Module:
    """Experts with weights large enough that their outputs differ."""
    part = ffn.build({"name": "moe", "expert": {"name": "glu", "width": 12}, **options}, SHAPE).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in part.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return part


def gates(m: nn.Module, x: Tensor, normalisation: str, k: int) -> dict[int, Tensor]:
    """Which experts one token (C,) goes to, and how much of each it takes."""
    logits = m.router.weight @ x
    share = logits.sigmoid() if normalisation == "sigmoid" else logits.exp() / logits.exp().sum()
    chosen = sorted(range(len(logits)), key=lambda e: -(share + m.bias)[e].item())[:k]
    if normalisation == "all":
        return {e: share[e] for e in chosen}
    weight = {e: logits[e].exp() if normalisation == "selected" else share[e] for e in chosen}
    return {e: w / sum(weight.values()) for e, w in weight.items()}


@pytest.mark.parametrize("normalisation", SCORES)
@pytest.mark.parametrize("expert", ["glu", "mlp"])
def test_it_is_the_loop_over_tokens(normalisation, expert):
    m = moe(normalisation=normalisation, experts=5, top_k=2, shared=1, expert={"name": expert, "width": 12})
    m.bias.copy_(torch.tensor([0.3, 0.0, -0.2, 0.0, 0.1]))
    expected = torch.zeros_like(X)
    for b in range(3):
        for t in range(24):
            x = X[b, t]
            expected[b, t] = m.shared[0](x, {})
            for e, gate in gates(m, x, normalisation, 2).items():
                expected[b, t] += gate * m.experts[e](x, {})
    torch.testing.assert_close(m(X, {}), expected)


def test_it_is_transformers_mixtral_block():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=16, intermediate_size=12, num_local_experts=6, num_experts_per_tok=2, hidden_act="silu"
    )
    m = moe(experts=6, top_k=2, expert={"name": "glu", "width": 12, "activation": "silu"})
    theirs = MixtralSparseMoeBlock(config).double().eval()
    with torch.no_grad():
        theirs.gate.weight.copy_(m.router.weight)
        for e, expert in enumerate(m.experts):
            theirs.experts.gate_up_proj[e] = torch.cat((expert.gate.weight, expert.up.weight))
            theirs.experts.down_proj[e] = expert.down.weight
        torch.testing.assert_close(m(X, {}), theirs(X), atol=1e-6, rtol=1e-5)  # their gates are in fp32


def test_the_ledger_is_counted_and_the_loss_is_switch_eq_4_and_st_moe_eq_5():
    m = moe(experts=5, top_k=2, balance_loss_weight=0.1, router_z_loss_weight=0.01)
    aux: dict[str, Tensor] = {}
    m(X, aux)
    counts, probability, z = torch.zeros(5), torch.zeros(5).double(), 0.0
    tokens = X.flatten(0, 1)
    for x in tokens:
        for e in gates(m, x, "selected", 2):
            counts[e] += 1
        logits = m.router.weight @ x
        probability += logits.softmax(0) / len(tokens)
        z += logits.exp().sum().log() ** 2 / len(tokens)
    torch.testing.assert_close(aux["load"].double(), counts.double() / counts.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(aux["probability"], probability)
    loss = 0.1 * 5 * (counts / counts.sum()) @ probability.float() + 0.01 * z
    torch.testing.assert_close(m.auxiliary(aux).double(), loss.double(), rtol=1e-6, atol=0)


def test_an_even_router_has_a_balance_loss_of_one():
    m = moe(experts=4, top_k=1, normalisation="all", balance_loss_weight=1.0)
    even = {
        "load": torch.full((4,), 0.25),
        "probability": torch.full((4,), 0.25),
        "router_z": torch.tensor(0.0),
    }
    assert m.auxiliary(even).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("k", "normalisation"), [(1, "all"), (2, "selected")])
def test_drops_are_counted_exactly_and_in_the_order_of_tokens(k, normalisation):
    m = moe(experts=4, top_k=k, normalisation=normalisation, capacity_factor=0.5).train()
    aux: dict[str, Tensor] = {}
    y = m(X, aux)
    room, dropped = -(-24 * k // 8), 0  # ceil(0.5 k T / E)
    expected = torch.zeros_like(X)
    for b in range(3):
        taken = [0] * 4
        for t in range(24):
            for e, gate in gates(m, X[b, t], normalisation, k).items():
                taken[e] += 1
                if taken[e] <= room:
                    expected[b, t] += gate * m.experts[e](X[b, t], {})
                else:
                    dropped += 1
    assert dropped > 0
    assert aux["dropped"].item() == pytest.approx(dropped / (3 * 24 * k))
    torch.testing.assert_close(y, expected)


def test_evaluation_never_drops():
    scarce, ample = moe(experts=4, capacity_factor=0.25).eval(), moe(experts=4).eval()
    aux: dict[str, Tensor] = {}
    assert torch.equal(scarce(X, aux), ample(X, {}))
    assert aux["dropped"].item() == 0


def test_ample_room_drops_nothing():
    aux: dict[str, Tensor] = {}
    full = moe(experts=4, capacity_factor=4.0).train()
    torch.testing.assert_close(full(X, aux), moe(experts=4)(X, {}))
    assert aux["dropped"].item() == 0


def test_drops_do_not_see_later_tokens():
    m, later = moe(experts=4, capacity_factor=0.5).train(), X.clone()
    later[:, 12:] = -later[:, 12:]
    assert torch.equal(m(X, {})[:, :12], m(later, {})[:, :12])


def test_the_room_is_of_the_number_that_was_meant():
    """1.1 times 400 is 440, which as a float is a little more: an expert would take one token beyond."""
    m = moe(experts=4, top_k=1, normalisation="all", capacity_factor=1.1).train()
    aux: dict[str, Tensor] = {}
    admitted = m.admit(torch.zeros(1, 400, 1, dtype=torch.long), aux)
    assert int((admitted == 0).sum()) == 110 and float(aux["dropped"]) == pytest.approx(290 / 400)


@pytest.mark.parametrize("capacity_factor", [None, 0.5])
def test_the_same_however_rows_are_split(capacity_factor):
    """Outputs, and the ledger's means, are those of the parts: so of any number of devices."""
    m = moe(experts=4, capacity_factor=capacity_factor).train()
    whole: dict[str, Tensor] = {}
    y = m(X, whole)
    parts: list[dict[str, Tensor]] = [{}, {}, {}]
    split = torch.cat([m(row[None], aux) for row, aux in zip(X, parts, strict=True)])
    torch.testing.assert_close(split, y)
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([p[name] for p in parts]).mean(0), value)


def test_the_bias_evens_a_skewed_router_without_a_loss():
    m = moe(experts=6, top_k=2, normalisation="sigmoid", balance_loss_weight=0.0, bias_update_rate=0.02)
    with torch.no_grad():
        x = X + 0.7  # a common direction that one expert answers to
        m.router.weight[0] += 0.4
    aux: dict[str, Tensor] = {}
    m(x, aux)
    skewed = aux["load"].clone()
    for _ in range(60):
        m(x, aux)
        m.after_step(aux["load"])
    assert skewed.max() > 0.35
    assert aux["load"].max() < 0.25  # even is 1/6
    assert aux["load"].std() < skewed.std() / 3
    assert m.auxiliary(aux).item() == 0


def test_the_bias_selects_and_does_not_weigh():
    """Raised evenly it changes nothing."""
    m = moe(experts=4, normalisation="sigmoid")
    before = m(X, {})
    m.bias += 0.7
    assert torch.equal(m(X, {}), before)


def test_the_router_is_in_fp32_under_autocast():
    m = moe(experts=4).float()
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        gate, chosen = m.route(x, {})
    expected_gate, expected = m.route(x, {})
    assert gate.dtype == torch.float32
    assert torch.equal(chosen, expected)
    assert torch.equal(gate, expected_gate)


def test_the_router_learns_from_the_text_alone():
    for normalisation, k in (("selected", 2), ("all", 1), ("renormalised", 2), ("sigmoid", 2)):
        m = moe(experts=4, top_k=k, normalisation=normalisation, balance_loss_weight=0.0)
        m(X, {}).square().sum().backward()
        assert m.router.weight.grad.abs().sum() > 0


def test_the_bias_is_saved_and_starts_at_zero():
    spec = small(ffn={"name": "moe", "experts": 4, "bias_update_rate": 0.1})
    state = Decoder(spec).init_parameters(0).state_dict()
    assert state["layers.2.ffn.bias"].tolist() == [0.0] * 4


def test_the_ledger_of_each_layer_is_its_own(tokens):
    m = Decoder(small(ffn={"name": "moe", "experts": 4})).init_parameters(0)
    call = ForwardContext.of(tokens)
    call.aux = m.aux()
    m(tokens, call)
    assert [set(report) for report in call.aux] == [{"load", "probability", "router_z", "dropped"}] * 3
    losses = [layer.ffn.auxiliary(report) for layer, report in zip(m.layers, call.aux, strict=True)]
    torch.testing.assert_close(m.auxiliary(call.aux), sum(losses))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"top_k": 5, "experts": 4}, "ffn moe: chooses k 5 of experts 4"),
        ({"top_k": 1}, "with top_k 1 and score after every gate is 1"),
        ({"expert": {"name": "moe", "experts": 2}}, "its expert moe has a loss and a report of its own"),
    ],
)
def test_what_cannot_work_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        small(ffn={"name": "moe", **options})
