"""Lookups against their equations with loops, and against the code of transformers."""

from typing import Any

import pytest
import torch
from conftest import small
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.parts.lookups import HashedTable, hash_multiplier, next_prime
from ablate.parts.recurrence import NoStates, RecurrentContext
from ablate.registry import lookup
from ablate.spec import ModelSpec

B, T, C, V = 2, 12, small().width, small().vocab
DOCUMENT = torch.tensor([[0] * 12, [0] * 4 + [1] * 1 + [2] * 7])


@pytest.fixture
def few() -> Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(3))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.double)


def view_of(tokens: Tensor, embedded: Tensor, document: Tensor | None = DOCUMENT) -> RecurrentContext:
    call, states = ForwardContext(torch.arange(T)[None], document), NoStates()
    shared = {"tokens": tokens, "embedded": embedded}
    return RecurrentContext(states, states.look(call), call.positions, [], shared)


def part(**options: Any) -> Any:
    module = lookup.build(options, small().shape()).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return module


def gram(tokens: Tensor, b: int, t: int, size: int) -> list[int]:
    """The token at t and those before, V where there is none in its document."""
    inside = [t - back >= 0 and DOCUMENT[b, t - back] == DOCUMENT[b, t] for back in range(size)]
    return [int(tokens[b, t - back]) if there else V for back, there in enumerate(inside)]


def row(table: HashedTable, key: str, tokens: list[int]) -> Tensor:
    mixed = 0
    for back, token in enumerate(tokens):
        mixed ^= token * hash_multiplier(f"{key}/{len(tokens)}/{back}")
    return table.table.weight[mixed % table.rows]


def test_an_ngram_is_looked_up_inside_of_its_document(few):
    module = part(name="ngram", n=3, rows=100)
    assert [table.rows for table in module.tables] == [101, 101]
    with torch.no_grad():
        found = module(drawn(B, T, C), view_of(few, drawn(B, T, C)), 0)
        for b in range(B):
            for t in range(T):
                two, three = (
                    row(table, "ngram", gram(few, b, t, size))
                    for size, table in zip((2, 3), module.tables, strict=True)
                )
                torch.testing.assert_close(found[b, t], two + three)


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    return norm.weight * x / (x.square().mean() + 1e-5).sqrt()


def test_engram_is_gated_by_the_stream_and_convolved_inside_of_its_document(few):
    module, x = part(name="engram", n=3, heads=2, width=16, convolution=3), drawn(B, T, C)
    with torch.no_grad():
        found = module(x, view_of(few, x), 0)
        u = torch.zeros(B, T, C, dtype=torch.double)
        for b in range(B):
            for t in range(T):
                rows = [
                    row(table, f"engram/{head}", gram(few, b, t, size))
                    for (size, head), table in zip(
                        [(2, 0), (2, 1), (3, 0), (3, 1)], module.tables, strict=True
                    )
                ]
                e = torch.cat(rows)
                k = rms(module.k.weight @ e, module.key_norm)
                gate = torch.sigmoid(rms(x[b, t], module.stream_norm) @ k / C**0.5)
                u[b, t] = gate * (module.v.weight @ e)
        for b in range(B):
            for t in range(T):
                read = torch.zeros(C, dtype=torch.double)
                for j in range(3):
                    at = t - 3 * (2 - j)  # n tokens apart
                    if at >= 0 and DOCUMENT[b, at] == DOCUMENT[b, t]:
                        read += module.conv.weight[:, 0, j] * rms(u[b, at], module.conv_norm)
                torch.testing.assert_close(found[b, t], u[b, t] + nn.functional.silu(read))


def test_per_layer_embeddings_are_those_of_gemma_4(few):
    transformers = pytest.importorskip("transformers")
    from transformers.models.gemma4 import modeling_gemma4 as theirs

    P = 16
    config = transformers.Gemma4TextConfig(
        vocab_size=V,
        vocab_size_per_layer_input=V,
        hidden_size=C,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        hidden_size_per_layer_input=P,
        num_kv_shared_layers=0,
    )
    model = theirs.Gemma4TextModel(config).double()
    layer = model.layers[1]
    eps = {"norm": {"name": "rmsnorm", "eps": config.rms_norm_eps}}
    module = lookup.build({"name": "per_layer", "width": P, **eps}, small().shape()).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(drawn(*p.shape) / 4)
        module.table.weight.copy_(model.embed_tokens_per_layer.weight[:, P:])
        module.projection.weight.copy_(model.per_layer_model_projection.weight[P:])
        module.projection_norm.weight.copy_(model.per_layer_projection_norm.weight)
        module.gate.weight.copy_(layer.per_layer_input_gate.weight)
        module.out.weight.copy_(layer.per_layer_projection.weight)
        module.norm.weight.copy_(layer.post_per_layer_input_norm.weight)
        embedded, x = drawn(B, T, C), drawn(B, T, C) + 1
        p = model.project_per_layer_inputs(embedded, model.get_per_layer_inputs(few, embedded))[:, :, 1]
        expected = layer.post_per_layer_input_norm(
            layer.per_layer_projection(layer.act_fn(layer.per_layer_input_gate(x)) * p)
        )
        torch.testing.assert_close(module(x, view_of(few, embedded), 1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", ["layers", "input"])
def test_hashed_ngrams_start_as_nothing(place, tokens):
    options = {"name": "ngram", "n": 3}
    case = {"lookup": options} if place == "layers" else {"embedding": {"norm": "none", "lookup": options}}
    plain, other = (Decoder(small(**o)).init_parameters(0) for o in ({}, case))
    with torch.no_grad():
        assert torch.equal(other(tokens), plain(tokens))


def test_a_lookup_stands_in_the_layers_that_name_it():
    reading = {"lookup": {"name": "engram"}}
    m = Decoder(small(variants={"plain": {}, "reading": reading}, pattern=["plain", "reading", "plain"]))
    assert [n for n, before in enumerate(m.before) if any(True for _ in before.parameters())] == [1]
    assert not any(True for _ in m.after.parameters())
    assert len(m.groups) == 2


def test_hashes_find_most_rows():
    """The rows of all pairs of 200 tokens, in a table of as many: as many as chance leaves, 1 - 1/e."""
    table = HashedTable(2, 200**2, 1, "ngram")
    with torch.no_grad():
        table.table.weight.copy_(torch.arange(table.rows)[:, None])
        a, b = torch.arange(200).repeat(200), torch.arange(200).repeat_interleave(200)
        found = table([a[None], b[None]]).unique().numel()
    assert found / table.rows == pytest.approx(1 - 1 / 2.718281828, abs=0.15)
    assert [next_prime(n) for n in (1, 8, 23, 24)] == [2, 11, 23, 29]


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="lookup engram: width 32 is not a multiple of heads times sizes"):
        small(lookup={"name": "engram", "heads": 3})


def test_the_absent_lookup_changes_no_id():
    spec = small().model_dump(mode="json", exclude_defaults=True)
    assert "lookup" not in spec and "lookup" not in spec["embedding"]
    assert small(lookup="ngram").model_dump(exclude_defaults=True)["lookup"] == {"name": "ngram"}
    old = small().model_dump()
    del old["lookup"], old["embedding"]["lookup"]
    assert ModelSpec.model_validate(old) == small()


def test_values_of_a_token_are_added_from_a_table(tokens):
    options = {"name": "value_embedding", "kv_heads": 2, "start": 0.5}
    m = Decoder(small(attention=options, position="none")).init_parameters(0).double()
    plain = Decoder(small(position="none")).init_parameters(0).double()
    seen: list[tuple[Tensor, Tensor]] = []
    layer, same = m.layers[1].attention, plain.layers[1].attention
    layer.register_forward_hook(lambda module, given, y: seen.append((given[0], y)))
    with torch.no_grad():
        m(tokens)
        x, y = seen[0]
        D = small().shape().head_width
        added = 0.5 * layer.values.weight[tokens]  # in the place of a bias that differs from token to token
        same.load_state_dict(layer.state_dict(), strict=False)
        q, k, v = same.project(x)
        v = v + added.view(*tokens.shape, 2, D).transpose(1, 2)
        k, v = (z.repeat_interleave(2, 1) for z in (k, v))
        heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(y, layer.out(heads.transpose(1, 2).flatten(2)))


def test_what_reads_nothing_of_a_wide_stream_stands_at_its_input():
    with pytest.raises(
        ValueError, match=r"lookup ngram: reads nothing of the stream.*embedding.lookup=ngram"
    ):
        small(lookup="ngram", stream="hyper")
    small(embedding={"norm": "none", "lookup": "ngram"}, stream="hyper")
