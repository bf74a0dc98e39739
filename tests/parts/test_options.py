"""Small options of parts against their formulas, written out."""

import math
from typing import Any

import pytest
import torch
from conftest import small
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext, Mask
from ablate.registry import ffn, position, scaling
from ablate.spec import ModelSpec, Shape

SHAPE = Shape(width=32, depth=3, heads=4, head_width=8, context=64, vocab=50)


def started(**options: Any) -> Decoder:
    """In double precision, every parameter off its start."""
    m = Decoder(small(**options)).init_parameters(0).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in m.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator).to(p)
    return m


def attention(x: Tensor, **options: Any) -> tuple[Any, Tensor]:
    """The attention of a model without positions, and what it gives of x (B,T,C)."""
    m = started(position="none", attention={"name": "softmax", "kv_heads": 2, **options}, depth=1)
    part = m.layers[0].attention
    with torch.no_grad():
        (view,) = m.views(ForwardContext.of(x[..., 0]), x.dtype)
        return part, part(x, view, 0)


def heads_of(part: Any, x: Tensor, clip: float = math.inf) -> tuple[Tensor, ...]:
    """q, k and v (B,H,T,D), keys and values repeated for the heads that share them."""
    B, T, _ = x.shape
    q, k, v = (
        (x @ getattr(part, name).weight.T).clamp(-clip, clip).view(B, T, -1, 8).transpose(1, 2)
        for name in ("q", "k", "v")
    )
    return q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt D) v, (B,T,H,D)."""
    T = q.shape[2]
    seen = torch.ones(T, T, dtype=torch.bool).tril() if seen is None else seen
    weights = (q @ k.mT / math.sqrt(8)).masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2)


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_q_k_and_v_are_clipped(x):
    part, y = attention(x, clip_qkv=0.7)
    torch.testing.assert_close(y, attended(*heads_of(part, x, 0.7)).flatten(2) @ part.out.weight.T)


def test_a_gate_multiplies_heads_or_channels(x):
    part, y = attention(x, gate="channel")
    gate = 1 / (1 + (-x @ part.gate.weight.T).exp())
    torch.testing.assert_close(y, (attended(*heads_of(part, x)).flatten(2) * gate) @ part.out.weight.T)

    part, y = attention(x, gate="head", gate_activation="softplus")
    gate = (1 + (x @ part.gate.weight.T).exp()).log()[..., None]
    torch.testing.assert_close(y, (attended(*heads_of(part, x)) * gate).flatten(2) @ part.out.weight.T)


def test_a_norm_stands_before_the_output(x):
    part, y = attention(x, inner_norm="rmsnorm")
    normed = part.inner_norm.weight * rms(attended(*heads_of(part, x)).flatten(2))
    torch.testing.assert_close(y, normed @ part.out.weight.T)


def test_exclusive_attention_gives_nothing_along_the_own_value(x):
    part, y = attention(x, exclusive=True)
    q, k, v = heads_of(part, x)
    heads, v = attended(q, k, v), v.transpose(1, 2)
    z = heads - (heads * v).sum(-1, keepdim=True) / (v * v).sum(-1, keepdim=True) * v
    torch.testing.assert_close(y, z.flatten(2) @ part.out.weight.T)
    torch.testing.assert_close((z * v).sum(-1), torch.zeros(2, 20, 4, dtype=torch.float64))


def test_values_have_a_width_and_a_multiplier(x):
    part, y = attention(x, value_width=5, value_multiplier=0.6)
    q, k, v = (
        (x @ getattr(part, name).weight.T).view(2, 20, -1, width).transpose(1, 2)
        for name, width in (("q", 8), ("k", 8), ("v", 5))
    )
    k, v = k.repeat_interleave(2, 1), 0.6 * v.repeat_interleave(2, 1)
    assert part.out.weight.shape == (32, 20)
    torch.testing.assert_close(y, attended(q, k, v).flatten(2) @ part.out.weight.T)


def test_heads_have_a_width_of_their_own(x):
    part, y = attention(x, head_width=12)
    q, k, v = (
        (x @ getattr(part, name).weight.T).view(2, 20, -1, 12).transpose(1, 2) for name in ("q", "k", "v")
    )
    heads = attended(q * math.sqrt(8 / 12), k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(y, heads.flatten(2) @ part.out.weight.T)


def test_values_have_a_norm_and_may_be_the_keys_of_the_projection(x):
    part, y = attention(x, value_norm={"name": "rmsnorm", "weight": False}, qk_norm="rmsnorm")
    q, k, v = heads_of(part, x)
    q, k = part.q_norm.weight * rms(q), part.k_norm.weight * rms(k)
    torch.testing.assert_close(y, attended(q, k, rms(v)).flatten(2) @ part.out.weight.T)

    part, y = attention(x, shared_values=True, qk_norm="rmsnorm")
    v = (x @ part.k.weight.T).view(2, 20, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
    q = part.q_norm.weight * rms((x @ part.q.weight.T).view(2, 20, 4, 8).transpose(1, 2))
    torch.testing.assert_close(y, attended(q, part.k_norm.weight * rms(v), v).flatten(2) @ part.out.weight.T)


def test_a_gate_has_a_number_of_each_head(x):
    part, y = attention(x, gate="channel", gate_bias=True)
    gate = torch.sigmoid((x @ part.gate.weight.T).view(2, 20, 4, 8) + part.gate_bias[:, None])
    torch.testing.assert_close(y, (attended(*heads_of(part, x)) * gate).flatten(2) @ part.out.weight.T)


def test_queries_grow_by_a_power_of_the_position(x):
    part, y = attention(x, temperature=0.3, temperature_floor=5, temperature_form="power")
    q, k, v = heads_of(part, x)
    for i in range(20):
        q[:, :, i] *= (1 + (i + 1) / 5) ** 0.3
    expected = attended(q, k, v).flatten(2) @ part.out.weight.T
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)  # positions are of single precision


def test_a_weight_of_each_key_is_added_to_its_scores(x):
    part, y = attention(x, name="dynamic_mask", weight_bias=True, scale=0.7)
    q, k, v = heads_of(part, x)
    values = x @ part.v.weight.T
    w = torch.exp(part.rate * torch.log1p((values @ part.weight.weight.T + part.weight.bias).exp()))
    scores = 0.7 * q @ k.mT + w.mT.repeat_interleave(2, 1)[:, :, None]
    seen = torch.ones(20, 20, dtype=torch.bool).tril()
    heads = (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(y, heads.flatten(2) @ part.out.weight.T)


def test_chunks_hide_the_keys_of_others(x):
    part, y = attention(x, chunk=6)
    t = torch.arange(20)
    seen = (t[:, None] // 6 == t // 6) & (t <= t[:, None])
    torch.testing.assert_close(y, attended(*heads_of(part, x), seen).flatten(2) @ part.out.weight.T)
    assert Mask(chunk=6).visible(torch.tensor(12), torch.tensor(11), None).item() is False


@pytest.mark.parametrize("shift", [True, False])
def test_queries_grow_with_the_position(x, shift):
    part, y = attention(x, temperature=0.4, temperature_floor=5, temperature_shift=shift)
    q, k, v = heads_of(part, x)
    for i in range(20):
        q[:, :, i] *= 1 + 0.4 * math.log(1 + (i + shift) // 5)
    torch.testing.assert_close(y, attended(q, k, v).flatten(2) @ part.out.weight.T)


def test_qk_norms_after_the_position(x):
    options = {"qk_norm": {"name": "rmsnorm", "weight": False}}
    for at in ("before", "after"):  # without a position, and without a weight with one, the same
        part, y = attention(x, **options, qk_norm_at=at)
        q, k, v = heads_of(part, x)
        torch.testing.assert_close(y, attended(rms(q), rms(k), v).flatten(2) @ part.out.weight.T)
    torch.manual_seed(0)
    tokens = torch.randint(50, (2, 20))
    weighed = {"name": "softmax", "kv_heads": 2, "qk_norm": "rmsnorm"}
    before, after = (started(attention={**weighed, "qk_norm_at": at}) for at in ("before", "after"))
    state = {
        name.replace("_norm", "_placed"): p for name, p in before.state_dict().items() if ".q_norm" in name
    }
    assert set(state) <= set(after.state_dict())
    with torch.no_grad():
        assert (before(tokens) - after(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"chunk": 4, "window": 4}, "mask of its own"),
        ({"qk_norm": "rmsnorm", "qk_norm_at": "after", "qk_norm_over": "width"}, "over each head"),
        ({"gate_activation": "softplus"}, "gate is null"),
        ({"gate_bias": True}, "gate is null"),
        ({"head_width": 12}, "position rope turns heads of 8"),
        ({"shared_values": True, "value_width": 6}, "has no width of its own"),
        ({"shared_values": True, "bias": ["v"]}, "leave v out"),
        ({"temperature_form": "power"}, "temperature is 0"),
        ({"name": "dynamic_mask", "softcap": 5.0}, "bend the weights of keys"),
    ],
)
def test_attention_refuses(options, reason):
    with pytest.raises(ValueError, match=reason):
        small(attention={"name": "softmax", **options})


# -------------------------------------------------------------------------------------------- MLA


def test_mla_is_its_formula_whole_and_token_by_token(x):
    options = {"name": "mla", "q_rank": 20, "kv_rank": 12, "key_width": 6, "value_width": 10}
    m = started(attention=options, depth=1)
    part = m.layers[0].attention
    with torch.no_grad():
        call = ForwardContext.of(x[..., 0])
        (view,) = m.views(call, x.dtype)
        y = part(x, view, 0)
        q = part.q_norm.weight * rms(x @ part.q_down.weight.T) @ part.q_up.weight.T
        q = q.view(2, 20, 4, 14).transpose(1, 2)
        c = part.kv_norm.weight * rms(x @ part.kv_down.weight.T)
        kv = (c @ part.kv_up.weight.T).view(2, 20, 4, 16).transpose(1, 2)
        turn = m.positions[0].rotate
        where = view.where.query
        r = turn((x @ part.k_turned.weight.T)[:, None], where).expand(-1, 4, -1, -1)
        q = torch.cat((q[..., :6], turn(q[..., 6:], where)), -1)
        k = torch.cat((kv[..., :6], r), -1)
        weights = (q @ k.mT / math.sqrt(14)).masked_fill(~torch.ones(20, 20).tril().bool(), -torch.inf)
        expected = (weights.softmax(-1) @ kv[..., 6:]).transpose(1, 2).flatten(2) @ part.out.weight.T
    torch.testing.assert_close(y, expected)


def test_the_memory_of_mla_is_the_compressed_vector_and_the_turned_part():
    from ablate.model.measure import count_costs

    m = Decoder(small(attention={"name": "mla", "kv_rank": 12}, depth=2)).init_parameters(0)
    memories = m.memories(8)
    with torch.no_grad():
        m(torch.randint(50, (1, 8)), ForwardContext(torch.arange(8)[None], memories=memories))
    stored = [tensor for pair in memories[0].stored.values() for tensor in pair]
    assert sum(tensor.numel() for tensor in stored) == 2 * 8 * (12 + 8)
    assert count_costs(m, value_bytes=4).kv_bytes == 4 * 2 * (12 + 8)


# ---------------------------------------------------------------------------------------- experts

MOE = {"name": "moe", "experts": 6, "top_k": 2, "expert": {"name": "glu", "width": 12}}


def experts(**options: Any) -> Any:
    return started(ffn={**MOE, **options}, depth=1).layers[0].ffn


def literal(m: Any, x: Tensor, chosen: Tensor, gate: Tensor, on_input: bool = False) -> Tensor:
    """Token by token."""
    y = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for e, g in zip(chosen[b, t], gate[b, t], strict=True):
                expert = m.experts[int(e)]
                y[b, t] += expert(g * x[b, t], {}) if on_input else g * expert(x[b, t], {})
    return y


def test_routed_experts_are_scaled_and_the_router_has_a_bias(x):
    m = experts(normalisation="sigmoid", routed_scale=2.5, router_bias=True)
    with torch.no_grad():
        s = torch.sigmoid(x @ m.router.weight.T + m.router.bias)
        gate, chosen = s.topk(2)
        gate = 2.5 * gate / gate.sum(-1, keepdim=True)
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate))


@pytest.mark.parametrize(
    ("normalisation", "score", "divided"),
    [
        ("sigmoid_all", torch.sigmoid, False),
        ("sqrt_softplus", lambda u: (1 + u.exp()).log().sqrt(), True),
    ],
)
def test_scores_of_experts(x, normalisation, score, divided):
    m = experts(normalisation=normalisation)
    with torch.no_grad():
        gate, chosen = score(x @ m.router.weight.T).topk(2)
        gate = gate / gate.sum(-1, keepdim=True) if divided else gate
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate))


@pytest.mark.parametrize("group_score", ["best", "best_two"])
def test_only_the_best_groups_are_chosen_from(x, group_score):
    m = experts(normalisation="sigmoid", groups=3, top_groups=2, group_score=group_score)
    count = {"best": 1, "best_two": 2}[group_score]
    with torch.no_grad():
        s = torch.sigmoid(x @ m.router.weight.T)
        for row in s.flatten(0, 1):  # the worst group is out
            of_group = row.view(3, 2).sort(descending=True).values[:, :count].sum(-1)
            worst = int(of_group.argmin())
            row[2 * worst : 2 * worst + 2] = -1
        gate, chosen = s.topk(2)
        gate = gate / gate.sum(-1, keepdim=True)
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate))


def test_a_gate_may_stand_on_the_input_of_an_expert(x):
    m = experts(normalisation="sigmoid_all", top_k=1, gate_on="input")
    with torch.no_grad():
        gate, chosen = torch.sigmoid(x @ m.router.weight.T).topk(1)
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate, on_input=True))


def test_shared_experts_have_a_gate_and_a_kind_of_their_own(x):
    m = experts(shared=1, shared_gate=True, shared_expert={"name": "mlp", "width": 9})
    assert m.shared[0].up.weight.shape == (9, 32)
    with torch.no_grad():
        gate, chosen = (x @ m.router.weight.T).topk(2)
        shared = torch.sigmoid(x @ m.shared_gate.weight.T) * m.shared[0](x, {})
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate.softmax(-1)) + shared)


def test_a_norm_stands_over_all_experts(x):
    m = experts(shared=1, output_norm="rmsnorm")
    with torch.no_grad():
        gate, chosen = (x @ m.router.weight.T).topk(2)
        whole = literal(m, x, chosen, gate.softmax(-1)) + m.shared[0](x, {})
        torch.testing.assert_close(m(x, {}), m.output_norm.weight * rms(whole))


@pytest.mark.parametrize("selection", ["score", "logit"])
def test_the_bias_on_the_selection_is_of_scores_or_of_logits(x, selection):
    m = experts(normalisation="sigmoid_all", selection=selection)
    m.bias += torch.linspace(-1, 1, 6)
    with torch.no_grad():
        logits = x @ m.router.weight.T
        score = logits if selection == "logit" else torch.sigmoid(logits)
        chosen = (score + m.bias).topk(2).indices
        gate = torch.sigmoid(logits).gather(-1, chosen)
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate))


@pytest.mark.parametrize("jitter", [0.0, 0.2, 0.9])
def test_sparsemixer_takes_the_softmax_over_near_logits(x, jitter):
    m = experts(normalisation="sparsemixer", jitter=jitter)
    with torch.no_grad():
        logits = x @ m.router.weight.T
        gate, chosen = torch.zeros(2, 20, 2, dtype=x.dtype), logits.topk(2).indices
        for b in range(2):
            for t in range(20):
                u = logits[b, t].tolist()
                for n, e in enumerate(chosen[b, t].tolist()):
                    before = chosen[b, t, :n].tolist()
                    near = [
                        j
                        for j in range(6)
                        if j not in before and (u[e] - u[j]) / max(abs(u[j]), u[e]) <= 2 * jitter
                    ]
                    gate[b, t, n] = math.exp(u[e]) / sum(math.exp(u[j]) for j in near)
        torch.testing.assert_close(m(x, {}), literal(m, x, chosen, gate))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"jitter": 0.1}, "jitter is of normalisation sparsemixer"),
        ({"groups": 4}, "does not divide"),
        ({"top_groups": 2}, "there is one"),
        ({"groups": 6}, "adds up two experts"),
        ({"groups": 3, "top_groups": 1, "top_k": 3}, "does not leave top_k 3"),
        ({"shared_gate": True}, "shared is 0"),
        ({"top_k": 1, "normalisation": "sqrt_softplus"}, "every gate is 1"),
    ],
)
def test_experts_refuse(options, reason):
    with pytest.raises(ValueError, match=reason):
        small(ffn={**MOE, **options})


def test_a_clamped_glu(x):
    m = ffn.build({"name": "glu", "width": 12, "activation": "silu", "limit": 0.4, "up_offset": 1.0}, SHAPE)
    m = m.double()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(generator=torch.Generator().manual_seed(2))
        gate, up = (x @ m.gate.weight.T).clamp(max=0.4), (x @ m.up.weight.T).clamp(-0.4, 0.4)
        expected = (gate / (1 + (-gate).exp()) * (up + 1)) @ m.down.weight.T
        torch.testing.assert_close(m(x, {}), expected)


def test_a_norm_stands_before_down(x):
    m = ffn.build({"name": "glu", "width": 12, "inner_norm": "rmsnorm"}, SHAPE).double()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(generator=torch.Generator().manual_seed(2))
        hidden = torch.sigmoid(x @ m.gate.weight.T) * (x @ m.up.weight.T)
        torch.testing.assert_close(m(x, {}), (m.inner_norm.weight * rms(hidden)) @ m.down.weight.T)


# --------------------------------------------------------------------------------------- the rest


def test_logits_are_multiplied(tokens):
    m, plain = started(head={"multiplier": 0.25, "tied": False}), started(head={"tied": False})
    with torch.no_grad():
        torch.testing.assert_close(m(tokens), 0.25 * plain(tokens))
        targets = tokens.roll(-1, 1)
        expected = torch.nn.functional.cross_entropy(
            (0.25 * plain(tokens)).flatten(0, 1), targets.flatten(), reduction="sum"
        )
    torch.testing.assert_close(m(tokens, targets=targets, summed=True).objective, expected)


def test_a_transform_stands_before_the_head(tokens):
    m = started(head={"transform": {"activation": "gelu", "norm": "layernorm", "bias": True}})
    made, plain = m.head.transform, started()
    plain.load_state_dict({name: p for name, p in m.state_dict().items() if "transform" not in name})
    seen = []
    plain.final_norm.register_forward_hook(lambda module, given, y: seen.append(y))
    with torch.no_grad():
        plain(tokens)
        x = torch.nn.functional.gelu(seen[0] @ made.dense.weight.T + made.dense.bias)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + made.norm.eps).sqrt()
        expected = (made.norm.weight * x + made.norm.bias) @ m.embedding.weight.T
        torch.testing.assert_close(m(tokens), expected)


def test_the_first_branch_of_a_layer_may_have_no_norm(tokens):
    m = started(placement="pre_ffn", depth=1, position="none")
    layer = m.layers[0]
    (view,) = m.views(ForwardContext.of(tokens), torch.float64)
    with torch.no_grad():
        x = m.embedding_norm(m.embedding(tokens))
        x = x + layer.attention(x, view, 0)
        x = x + layer.ffn(layer.ffn_residual.input_norm(x), {})
        torch.testing.assert_close(m(tokens), m.final_norm(x) @ m.embedding.weight.T)
    with pytest.raises(ValueError, match="has one norm for both branches"):
        small(placement="pre_ffn", topology="parallel")


def test_sinusoids_with_an_offset_are_those_of_xglm():
    from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

    theirs = XGLMSinusoidalPositionalEmbedding(30, 32, None)(torch.arange(20)[None], 0)
    options = {"name": "sinusoidal", "halves": True, "offset": 2, "inclusive": True}
    ours = position.build(options, SHAPE).embed(torch.zeros(1, 20, 32), torch.arange(20)[None])
    torch.testing.assert_close(ours, theirs)


def test_alibi_over_the_root_of_the_head_width():
    i, j = torch.tensor(7), torch.tensor(3)
    plain, scaled = (position.build({"name": "alibi", "scaled": s}, SHAPE) for s in (False, True))
    for h in torch.arange(4):
        torch.testing.assert_close(scaled.bias(h, i, j), plain.bias(h, i, j) / math.sqrt(8))
    torch.testing.assert_close(scaled.slopes, plain.slopes / math.sqrt(8))


def test_proportional_rope_turns_pairs_of_the_whole_head():
    scheme = position.build({"name": "rope", "rotary_fraction": 0.5, "proportional": True}, SHAPE)
    x = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    y = scheme.rotate(x, scheme.locate(torch.arange(5)[None]))
    for t in range(5):
        for pair in range(4):
            angle = t * 10_000 ** (-2 * pair / 8) if pair < 2 else 0.0
            u, v = x[0, 0, t, pair].item(), x[0, 0, t, pair + 4].item()
            assert y[0, 0, t, pair].item() == pytest.approx(
                u * math.cos(angle) - v * math.sin(angle), abs=1e-5
            )
            assert y[0, 0, t, pair + 4].item() == pytest.approx(
                v * math.cos(angle) + u * math.sin(angle), abs=1e-5
            )


@pytest.mark.parametrize(("context", "listed"), [(64, "long"), (16, "short")])
def test_longrope_divides_each_pair(context, listed):
    divisors = {"short": (1.0, 1.5, 2.0, 2.5), "long": (3.0, 4.0, 5.0, 6.0)}
    shape = SHAPE._replace(context=context)
    part = scaling.build({"name": "longrope", "factor": 4.0, "trained": 16, **divisors}, shape, 8, 1e4)
    frequency, factor = part(torch.ones(4))
    torch.testing.assert_close(frequency, 1 / torch.tensor(divisors[listed]))
    assert factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))
    with pytest.raises(ValueError, match="3 divisors, and 4 pairs"):
        small(position={"name": "rope", "scaling": {"name": "longrope", "long": [1, 2, 3]}})


def test_yarn_without_truncation_keeps_the_ends_of_the_ramp():
    options = {"name": "yarn", "factor": 4.0, "trained": 40, "fast": 3.0, "slow": 0.3, "truncate": False}
    frequency, _ = scaling.build(options, SHAPE, 16, 100.0)(torch.ones(8))
    first, last = (16 * math.log(40 / (turns * 2 * math.pi)) / (2 * math.log(100)) for turns in (3.0, 0.3))
    for n in range(8):
        ramp = min(1, max(0, (n - first) / (last - first)))
        assert frequency[n].item() == pytest.approx(ramp / 4 + 1 - ramp, rel=1e-5)


def test_names_of_a_pattern_are_repeated():
    variants = {"dense": {}, "local": {"attention": {"window": 5}}}
    spec = small(depth=6, variants=variants, pattern=["dense x1", "local x 2"])
    assert spec.pattern == ("dense", "local", "local")
    assert ModelSpec.model_validate(spec.model_dump()) == spec
    with pytest.raises(ValueError, match="no variant is called dense x0"):
        small(variants=variants, pattern=["dense x0", "local"])


def test_what_is_new_changes_no_identity():
    """Options at their default are left out of what a run's id is made of."""
    dumped = small(ffn=MOE).canonical().model_dump(mode="json", exclude_defaults=True)
    assert set(dumped["attention"]) == {"name", "kv_heads", "qk_norm"}
    assert set(dumped["ffn"]) == {"name", "experts", "expert"}
    assert dumped["head"] == {}
