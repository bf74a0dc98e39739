"""Costs agree with what really runs, and with closed forms written apart from the model."""

import pytest
import torch
from cases import CASES, model
from conftest import small
from torch.utils.flop_counter import FlopCounterMode

from ablate.model.decoder import Decoder
from ablate.model.loss import LOGITS_SLICE
from ablate.model.measure import count_costs, measure_model
from ablate.parts.base import ForwardContext
from ablate.parts.canon import canons
from ablate.parts.recurrence import RecurrentMixer

COUNTED = {name: case for name, case in CASES.items() if "kernel" not in case}  # of which costs know nothing
every = pytest.mark.parametrize("case", COUNTED.values(), ids=COUNTED.keys())
ROWS, T = 2, 20


@every
def test_flops_are_those_that_torch_counts(case, tokens):
    """On `reference`, which computes masked scores too; forward, and forward with backward."""
    m = model({**case, "kernel": "reference"}, torch.float32)
    if any(isinstance(module, RecurrentMixer) for module in m.modules()):
        pytest.skip("counted token by token; torch counts the products of chunks")
    if "future" in case:
        pytest.skip("later tokens are predicted where there are targets")
    costs = count_costs(m, context=T)
    unseen = 2 * sum(  # what torch takes for sums
        convolution.more_products for convolution in canons(m)
    )
    with FlopCounterMode(display=False) as forward:
        m(tokens)
    with FlopCounterMode(display=False) as training:
        m(tokens).sum().backward()
    assert forward.get_total_flops() == pytest.approx(ROWS * T * (costs.forward_flops_unmasked - unseen))
    if not any(hasattr(layer.attention, "auxiliary") for layer in m.layers):  # whose loss is not in this sum
        expected = ROWS * T * (costs.training_flops_unmasked - 3 * unseen)
        assert training.get_total_flops() == pytest.approx(expected)


def test_of_sdpa_on_a_cpu_torch_counts_the_products_with_parameters_alone(tokens):
    m = model({"kernel": "sdpa"}, torch.float32)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        m(tokens)
    products = sum(p.numel() for name, p in m.named_parameters() if p.ndim == 2)  # the tied table once
    assert forward.get_total_flops() == 2 * ROWS * T * products


@every
def test_a_cache_takes_the_bytes_that_are_counted(case, tokens):
    m = model(case, torch.float32)
    call = ForwardContext.of(tokens)
    call.memories = m.memories(T)
    with torch.no_grad():
        m(tokens, call)
    memories = [
        part for memory in call.memories for part in (memory if isinstance(memory, tuple) else [memory])
    ]
    stored = [kept for memory in memories for kept in memory.stored.values()]
    keys = [x for kept in stored if isinstance(kept, tuple) for x in kept]
    states = [kept for kept in stored if not isinstance(kept, tuple)]
    costs = count_costs(m, context=T, value_bytes=4)
    assert sum(x[0].nbytes for x in (*keys, *states)) == costs.cache_bytes
    assert sum(x[0, :, 0].nbytes for x in keys) == costs.kv_bytes


@every
def test_the_blueprint_is_the_model(case):
    spec = small(**case)
    built = Decoder(spec).init_parameters(0)
    costs = measure_model(spec)
    assert costs == count_costs(built)
    assert costs.parameters == sum(p.numel() for p in built.parameters())
    assert costs.state_bytes == 16 * costs.parameters


@every
def test_activations_are_estimated_within_a_factor_of_two(case, tokens):
    m = model(case, torch.float32).train()
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = m(
            tokens, ForwardContext.of(tokens), tokens
        )  # holds the graph, so that no storage is used twice
    weights = {p.untyped_storage().data_ptr() for p in m.parameters()}
    saved = sum(size for place, size in kept.items() if place not in weights) / tokens.numel()
    assert loss.nll.requires_grad
    costs = count_costs(m, value_bytes=4)
    assert 0.5 < (costs.activation_bytes + costs.logit_bytes) / saved < 2


def test_of_large_logits_one_slice_is_in_memory():
    costs = measure_model(small(vocab=100_000))
    few, many = 64, 64_000
    assert costs.training_bytes(few) == costs.state_bytes + few * (costs.activation_bytes + 800_000)
    assert costs.training_bytes(many) == costs.state_bytes + many * costs.activation_bytes + 2 * LOGITS_SLICE


def test_a_dense_model_in_closed_form():
    V, C, L, H, K, D, F, N = 50, 32, 3, 4, 2, 8, 40, 24
    costs = measure_model(small(), value_bytes=2)
    layer = C * H * D + 2 * C * K * D + H * D * C + 3 * C * F
    norms = (2 * L + 1) * C
    assert costs.parameters == costs.active == V * C + L * layer + norms
    assert costs.non_embedding == costs.active_non_embedding == L * layer + norms
    seen = (N + 1) / 2
    assert costs.forward_flops == 2 * (L * layer + V * C) + L * 4 * H * D * seen
    assert costs.forward_flops_unmasked == 2 * (L * layer + V * C) + L * 4 * H * D * N
    assert costs.training_flops == 3 * costs.forward_flops
    assert costs.decoding_flops == costs.forward_flops_unmasked
    assert costs.kv_bytes == L * 2 * K * D * 2
    assert costs.cache_bytes == N * costs.kv_bytes


def test_experts_count_where_they_serve():
    C, F, E, k, shared, L = 32, 24, 4, 2, 1, 3
    expert = {"name": "glu", "width": F}
    moe = measure_model(
        small(ffn={"name": "moe", "experts": E, "top_k": k, "shared": shared, "expert": expert})
    )
    dense = measure_model(small(ffn=expert))
    assert moe.parameters - dense.parameters == L * (C * E + (E + shared - 1) * 3 * C * F)
    assert moe.active - dense.active == L * (C * E + (k + shared - 1) * 3 * C * F)
    assert moe.parameters - moe.active == L * (E - k) * 3 * C * F
    assert moe.forward_flops - dense.forward_flops == 2 * (moe.active - dense.active)


def test_a_window_costs_what_it_sees():
    w, first, N = 5, 2, 24
    plain = measure_model(small(attention={"name": "softmax"}))
    window = measure_model(small(attention={"name": "softmax", "window": w, "sink_tokens": first}))
    visible = [sum(1 for j in range(i + 1) if i - j < w or j < first) for i in range(N)]
    ratio = 3 * 4 * 32  # layers, and FLOPs for each key: 4 times the width of all heads
    assert plain.forward_flops - window.forward_flops == ratio * ((N + 1) / 2 - sum(visible) / N)
    assert plain.decoding_flops - window.decoding_flops == ratio * (N - visible[-1])
    assert window.kv_bytes == plain.kv_bytes
    assert window.cache_bytes == (w + first) * window.kv_bytes
    longer = measure_model(small(attention={"name": "softmax", "window": w}), context=1000)
    assert (
        longer.decoding_flops
        == measure_model(small(attention={"name": "softmax", "window": w})).decoding_flops
    )


def test_what_counts_as_embedding():
    tied, untied = (
        measure_model(small(head={"tied": True})),
        measure_model(small(head={"tied": False, "bias": True})),
    )
    learned = measure_model(small(position="learned"))
    assert untied.parameters - tied.parameters == 50 * 32 + 50
    assert untied.non_embedding == tied.non_embedding == learned.non_embedding
    assert learned.parameters - measure_model(small(position="none")).parameters == 24 * 32
    t5 = measure_model(small(position="t5"))
    assert t5.non_embedding - tied.non_embedding == 32 * 4  # a bias on scores is no embedding


def test_a_vocabulary_is_needed():
    with pytest.raises(ValueError, match=r"model\.vocab is null"):
        measure_model(small(vocab=None))
