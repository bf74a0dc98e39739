"""Attention to chosen keys: who is chosen, what the indexer learns from, and what is remembered."""

import itertools

import pytest
import torch
from cases import model
from conftest import small

from ablate.model.decoder import Decoder
from ablate.model.measure import count_costs
from ablate.parts import indexer
from ablate.parts.adding import Adding
from ablate.parts.base import ForwardContext, IncompatibleParts, Mask
from ablate.parts.indexer import best

LATENT = {"name": "dsa", "q_rank": 20, "kv_rank": 12, "top_k": 4, "index_heads": 3, "index_width": 10}
BLOCKS = {"name": "block_sparse", "kv_heads": 2, "block": 3, "top_blocks": 3, "local_blocks": 2}
BY_HEAD = {"name": "dsa_softmax", "kv_heads": 2, "top_k": 4, "index_heads": 3}
all_three = pytest.mark.parametrize("attention", [LATENT, BY_HEAD, BLOCKS], ids=["dsa", "softmax", "blocks"])
both = pytest.mark.parametrize("attention", [LATENT, BY_HEAD], ids=["dsa", "dsa_softmax"])


def test_the_highest_are_chosen_and_of_equals_the_last():
    score = torch.tensor([[3.0, 1.0, 1.0, 9.0, 1.0, 0.0]])
    seen = torch.tensor([[True, True, True, False, True, True]])
    chosen = [best(score, seen, k).nonzero()[:, 1].tolist() for k in (1, 2, 3, 4, 5, 6)]
    assert chosen == [[0], [0, 4], [0, 2, 4], [0, 1, 2, 4], [0, 1, 2, 4, 5], [0, 1, 2, 4, 5]]


@both
@pytest.mark.parametrize("top_k", [20, 1000, None])
def test_with_as_many_keys_as_there_are_it_is_dense(attention, top_k, tokens):
    dense = {key: value for key, value in attention.items() if "index" not in key and key != "top_k"}
    dense["name"] = {"dsa": "mla", "dsa_softmax": "softmax"}[attention["name"]]
    sparse = model({"attention": {**attention, "top_k": top_k}})
    plain = model({"attention": dense})
    missing, unexpected = plain.load_state_dict(sparse.state_dict(), strict=False)
    assert not missing and all(".indexer." in name for name in unexpected)
    with torch.no_grad():
        assert torch.equal(sparse(tokens), plain(tokens))


@both
def test_fewer_keys_are_another_function(attention, tokens):
    few, all_keys = model({"attention": attention}), model({"attention": {**attention, "top_k": None}})
    with torch.no_grad():
        a, b = few(tokens), all_keys(tokens)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def trained(m: Decoder, tokens: torch.Tensor, **call: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the language loss, the losses of the indexers)."""
    context = ForwardContext(torch.arange(tokens.shape[1])[None], aux=m.aux(), **call)
    sums = m.train()(tokens, context, targets=tokens.roll(-1, 1), summed=True)
    return sums.objective / tokens.numel(), m.auxiliary(context.aux)


@all_three
def test_the_two_losses_do_not_reach_each_other(attention, tokens):
    m = model({"attention": attention})
    language, index = trained(m, tokens)
    reached = [
        {
            name
            for (name, _), gradient in zip(
                m.named_parameters(),
                torch.autograd.grad(loss, list(m.parameters()), allow_unused=True, retain_graph=True),
                strict=True,
            )
            if gradient is not None and gradient.abs().sum() > 0
        }
        for loss in (language, index)
    ]
    names = {name for name, _ in m.named_parameters()}
    assert reached[1] == {name for name in names if ".indexer." in name}
    assert reached[0] == names - reached[1]


@both
@pytest.mark.parametrize("top_k", [4, None])
def test_the_loss_is_the_divergence_from_the_attention_of_all_heads(attention, top_k, tokens):
    """Written out: probabilities of each head over the chosen keys, their mean p, the sum over keys of
    p log(p / q), and the mean over tokens."""
    m = model({"attention": {**attention, "top_k": top_k, "index_loss_weight": 0.5}, "depth": 1}).train()
    seen = {}
    kernel = type(m.kernel.for_mask(Mask()))
    kernel_call = kernel.__call__

    def listen(self, q, k, v, prepared, scores, dropout):
        seen.update(q=q, k=k, scale=scores.scale)
        return kernel_call(self, q, k, v, prepared, scores, dropout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "__call__", listen)
        m.layers[0].attention.indexer.register_forward_hook(lambda mod, x, y: seen.update(score=y))
        found = trained(m, tokens)[1]
    q, k, score = seen["q"], seen["k"], seen["score"]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    total = torch.zeros(())
    for row in range(2):
        for t in range(20):
            order = t - score[row, 0, t, : t + 1].flip(0).argsort(descending=True, stable=True)
            kept = order if top_k is None else order[:top_k]
            p = (q[row, :, t, None] * k[row, :, kept]).sum(-1).mul(seen["scale"]).softmax(-1).mean(0)
            log_q = score[row, 0, t, kept].log_softmax(-1)
            total = total + (p * (p.log() - log_q)).sum()
    torch.testing.assert_close(found, 0.5 * total / 40)


def test_each_group_attends_to_its_own_blocks_and_to_the_last_ones():
    """Written out: the highest product in each block that has begun, the two last blocks, and the best of the
    others. No token is there twice, so no blocks are equal."""
    tokens = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:40].view(2, 20)
    m, seen = model({"attention": BLOCKS, "depth": 1, "position": "none"}), {}
    part = m.layers[0].attention
    part.register_forward_hook(lambda mod, x, y: seen.update(x=x[0], y=y))
    with torch.no_grad():
        m(tokens)
        x, index = seen["x"], part.indexer
        score = torch.einsum(
            "btgd,bsd->bgts", index.q_norm(index.q(x).unflatten(-1, (2, -1))), index.k_norm(index.k(x))
        )
        q, k, v = part.project(x)
        heads = torch.zeros_like(q)
        chosen = set()
        for row, h, t in itertools.product(range(2), range(4), range(20)):
            g, own = h // 2, t // 3
            best_of = {b: score[row, g, t, 3 * b : min(3 * b + 3, t + 1)].max() for b in range(own + 1)}
            blocks = sorted(best_of, key=lambda b: (b > own - 2, best_of[b]), reverse=True)[:3]
            keys = [s for s in range(t + 1) if s // 3 in blocks]
            chosen.add((row, g, t, tuple(keys)))
            p = (k[row, g, keys] @ q[row, h, t] * part.scale).softmax(0)
            heads[row, h, t] = p @ v[row, g, keys]
        torch.testing.assert_close(seen["y"], part.out(heads.transpose(1, 2).flatten(2)))
    groups = [{keys for r, g, t, keys in chosen if (r, g) == (0, group)} for group in (0, 1)]
    assert groups[0] != groups[1]


def test_filling_does_not_count(tokens):
    m = model({"attention": LATENT})
    filled = torch.cat((tokens, torch.zeros_like(tokens[:, :3])), 1)
    real = torch.arange(23)[None].expand(2, -1) < 20
    torch.testing.assert_close(trained(m, filled, real=real)[1], trained(m, tokens)[1])


def test_an_indexer_learns_the_attention(tokens):
    """With its own loss alone, of a language model that stays as it is."""
    m = model({"attention": {**BY_HEAD, "top_k": None}, "depth": 1})
    optimizer = torch.optim.Adam(m.layers[0].attention.indexer.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = trained(m, tokens)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_cached_is_whole_given_the_same_choice(tokens, monkeypatch):
    """Without a position that turns, repeated tokens have equal scores up to rounding, so that choices may
    differ; what follows from a choice does not."""
    m, made = model({"attention": {**LATENT, "top_k": 5}, "position": "none", "depth": 2}), []

    def whole(score, seen, k):
        made.append(best(score, seen, k))
        return made[-1]

    monkeypatch.setattr(indexer, "best", whole)
    with torch.no_grad():
        expected = m(tokens)
        memories, given = m.memories(20), []
        for a, b in [(0, 7), (7, 9), *((t, t + 1) for t in range(9, 20))]:
            of_layers = iter(made[:2])
            monkeypatch.setattr(
                indexer, "best", lambda score, seen, k, a=a, b=b, of=of_layers: next(of)[:, :, a:b, :b]
            )
            piece = ForwardContext(torch.arange(a, b)[None], memories=memories)
            given.append(m(tokens[:, a:b], piece))
    torch.testing.assert_close(torch.cat(given, 1), expected)


@all_three
def test_the_memory_holds_the_keys_of_the_indexer(attention, tokens):
    m = Decoder(small(attention=attention)).init_parameters(0)
    memories = m.memories(20)
    with torch.no_grad():
        m(tokens, ForwardContext(torch.arange(20)[None], memories=memories))
    stored = sum(x[0].nbytes for memory in memories for pair in memory.stored.values() for x in pair)
    costs = count_costs(m, context=20, value_bytes=4)
    assert costs.cache_bytes == stored and costs.kv_bytes == stored / 20
    width = m.layers[0].attention.index_width
    assert sum(pair[0].shape[-1] == width for pair in memories[0].stored.values()) >= 3


def test_sharing_layers_take_the_choice_of_the_last_indexer(tokens, monkeypatch):
    variants = {"own": {}, "sharing": {"attention": {"share_choice": True}}}
    pattern = ["own", "sharing", "own", "sharing"]
    m = model({"attention": LATENT, "depth": 4, "variants": variants, "pattern": pattern})
    made, taken = [], []
    monkeypatch.setattr(indexer, "best", lambda *given: made.append(best(*given)) or made[-1])
    original = Adding.__init__
    monkeypatch.setattr(
        Adding,
        "__init__",
        lambda self, kernel, more, *watch: taken.append(more) or original(self, kernel, more),
    )
    with torch.no_grad():
        m(tokens)
    assert len(made) == 2 and not torch.equal(*made)
    for got, expected in zip(taken, (made[0], made[0], made[1], made[1]), strict=True):
        assert torch.equal(got == 0, expected)
    assert [layer.attention.indexer is None for layer in m.layers] == [False, True, False, True]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention": {**LATENT, "index_width": 4}}, "index_width 4 is below the 8 channels that turn"),
        ({"attention": {**LATENT, "share_choice": True}}, "no layer before layer 0 has an indexer"),
        ({"attention": {**BLOCKS, "local_blocks": 4}}, "local_blocks 4 is more than top_blocks 3"),
        ({"attention": {**BLOCKS, "mask": "prefix"}}, "a prefix sees later ones"),
        ({"attention": {**BY_HEAD, "window": 6}}, "a window would hide what it chose"),
        (
            {
                "attention": LATENT,
                "variants": {"own": {}, "sharing": {"attention": {"share_choice": True, "top_k": 3}}},
                "pattern": ["own", "sharing", "own"],
            },
            "top_k 3 is not that of the indexer, 4",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        small(**options)


def test_what_reports_once_is_not_looped():
    with pytest.raises(IncompatibleParts, match="attention dsa of layer 1 reports of a call once"):
        Decoder(small(attention=LATENT, loop={"times": 2, "first": 1, "last": 1}))


@pytest.mark.parametrize(
    ("kernel", "facts"),
    [("flex", {"training": False}), ("flash", {"device": "cuda", "dtype": torch.bfloat16})],
)
def test_kernels_that_cannot_hide_chosen_keys_refuse(kernel, facts):
    with pytest.raises(IncompatibleParts, match=r"no scores that a layer makes of the text"):
        Decoder(small(attention=LATENT, kernel=kernel), **facts)
