"""Residual streams against their equations written out, and against the code of transformers."""

import pytest
import torch
from conftest import small
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.parts.connection import Connection
from ablate.registry import registries
from ablate.spec import ModelSpec

B, T, C, N = 2, 5, small().width, 4
STARTS_PLAIN = [
    {"name": "x0"},
    {"name": "hyper"},
    {"name": "hyper", "dynamic": True},
    {"name": "scaled", "multiplier": 1.0},
    {"name": "weighted"},
    {"name": "layer_gain"},
]


def close(x: Tensor, delta: Tensor) -> Tensor:
    return x + delta


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.double)


def connection(branch: int = 1, first: bool = True, **options: object) -> Connection:
    made = registries["stream"].build(options, small().shape())
    module: Connection = made.connection(branch, first).double()
    generator = torch.Generator().manual_seed(branch)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return module


@pytest.mark.parametrize("options", STARTS_PLAIN, ids=str)
def test_it_starts_as_the_plain_stream(options, tokens):
    plain, other = (Decoder(small(**o)).init_parameters(0).double() for o in ({}, {"stream": options}))
    with torch.no_grad():
        torch.testing.assert_close(other(tokens), plain(tokens), rtol=1e-6, atol=1e-9)


def test_scaled_adds_a_share():
    x, delta = drawn(B, T, C), drawn(B, T, C)
    c = connection(name="scaled", multiplier=0.22)
    read, kept = c.read(x)
    assert read is x
    torch.testing.assert_close(c.write(kept, delta, close), x + 0.22 * delta)


@pytest.mark.parametrize("branch", [0, 1, 7])
def test_depth_scaled_keeps_the_mean_of_all_branches(branch):
    x, delta, j = drawn(B, T, C), drawn(B, T, C), branch + 2
    c = connection(branch, name="depth_scaled")
    torch.testing.assert_close(
        c.write(c.read(x)[1], delta, close), ((j - 1) / j) ** 0.5 * x + j**-0.5 * delta
    )


def test_weighted_has_a_weight_of_each_channel():
    x, delta = drawn(B, T, C), drawn(B, T, C)
    c = connection(name="weighted")
    read, kept = c.read(x)
    assert read is x
    torch.testing.assert_close(c.write(kept, delta, close), c.weight * x + delta)


def test_a_gain_stands_after_each_layer():
    x, delta = drawn(B, T, C), drawn(B, T, C)
    c = connection(2, name="layer_gain")
    read, kept = c.read(x)
    torch.testing.assert_close(read, c.gain.gain * x)
    torch.testing.assert_close(c.write(kept, delta, close), c.gain.gain * x + delta)
    for plain in (connection(0, name="layer_gain"), connection(3, first=False, name="layer_gain")):
        assert plain.read(x)[0] is x
    m = Decoder(small(stream="layer_gain", depth=3))
    assert sum(name.endswith("gain") for name, _ in m.named_parameters()) == 3


def test_x0_mixes_the_embedding_in_before_a_layer():
    x, embedded, delta = drawn(B, T, C), drawn(B, T, C) + 1, drawn(B, T, C)
    c = connection(name="x0")
    read, kept = c.read((x, embedded))
    torch.testing.assert_close(read, c.a * x + c.b * embedded)
    after, same = c.write(kept, delta, close)
    torch.testing.assert_close(after, read + delta)
    assert same is embedded
    assert connection(name="x0", first=False).read((x, embedded))[0] is x


@pytest.mark.parametrize("dynamic", [False, True])
def test_hyper_connections_token_by_token(dynamic):
    """Zhu et al. 2024, equations 1 to 5 and 10 to 13, with loops."""
    X, delta = drawn(B, T, N, C), drawn(B, T, C)
    c = connection(name="hyper", dynamic=dynamic)
    read, kept = c.read(X)
    after = c.write(kept, delta, close)
    for b in range(B):
        for t in range(T):
            H = X[b, t]
            r, R, p = c.reading[0], c.mixing, c.writing[0]
            if dynamic:
                normed = H / (H.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                r = r + c.reading_scale * torch.tanh(normed @ c.of_reading)[:, 0]
                R = R + c.mixing_scale * torch.tanh(normed @ c.of_mixing)
                p = p + c.writing_scale * torch.tanh(normed @ c.of_writing)[:, 0]
            torch.testing.assert_close(read[b, t], sum(r[i] * H[i] for i in range(N)))
            for j in range(N):
                mixed = sum(R[i, j] * H[i] for i in range(N))
                torch.testing.assert_close(after[b, t, j], mixed + p[j] * delta[b, t])


def test_mhc_is_that_of_deepseek_v4():
    transformers = pytest.importorskip("transformers")
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

    config = transformers.DeepseekV4Config(hidden_size=C, hc_mult=N, hc_sinkhorn_iters=20, hc_eps=1e-6)
    c, hyper, head = connection(name="mhc").float(), theirs.DeepseekV4HyperConnection(config), None
    w = c.weighing
    hyper.load_state_dict({"fn": w.weight, "base": w.offset, "scale": w.scale})
    X, delta = drawn(B, T, N, C).float(), drawn(B, T, C).float()
    with torch.no_grad():
        post, comb, collapsed = hyper(X)
        expected = post[..., None] * delta[:, :, None] + comb.transpose(-1, -2) @ X
        read, kept = c.read(X)
        torch.testing.assert_close(read, collapsed)
        torch.testing.assert_close(c.write(kept, delta, close), expected)
        out, head = (
            registries["stream"].build("mhc", small().shape()).exit(),
            theirs.DeepseekV4HyperHead(config),
        )
        for p in out.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
        of_head = {"hc_fn": out.weighing.weight, "hc_base": out.weighing.offset}
        head.load_state_dict({**of_head, "hc_scale": out.weighing.scale})
        torch.testing.assert_close(out(X), head(X))


def test_mixing_is_doubly_stochastic_and_the_identity_leaves_streams_as_they_are():
    c = connection(name="mhc").double()
    with torch.no_grad():
        c.weighing.weight.zero_()
        mixed = c.mixed(torch.eye(N).double()[None, None], c.weighing.offset[None, None, 2 * N :])
    for dim in (-1, -2):
        torch.testing.assert_close(mixed.sum(dim), torch.ones(1, 1, N).double(), rtol=0, atol=1e-3)
    X, zero = drawn(B, T, N, C), torch.zeros(B, T, C).double()
    identity = connection(name="mhc", mixing="identity")
    _, kept = identity.read(X)
    assert torch.equal(identity.write(kept, zero, close), X)


@pytest.mark.parametrize(
    "options", [{"name": "mhc"}, {"name": "mhc", "mixing": "identity"}, {"name": "hyper"}]
)
def test_training_sets_the_streams_apart(options, tokens):
    """Streams that start equal and get equal gradients would stay one stream for ever."""
    m = Decoder(small(stream=options)).init_parameters(0)
    optimizer, states = torch.optim.AdamW(m.parameters(), 1e-2), []
    m.exit.register_forward_pre_hook(lambda module, given: states.append(given[0].detach()))
    for _ in range(10):
        optimizer.zero_grad()
        m(tokens, targets=tokens.roll(-1, 1)).nll.mean().backward()
        optimizer.step()
    last = states[-1]
    assert (last - last.mean(2, keepdim=True)).norm() > 1e-3 * last.norm()


def test_before_the_first_branch_nothing_mixes_equal_streams():
    made = registries["stream"].build("mhc", small().shape())
    first, second = made.connection(0, True), made.connection(1, False)
    assert second.weighing.offset.numel() - first.weighing.offset.numel() == N * N


@pytest.mark.parametrize("block", [1, 2])
def test_attention_residuals_read_all_that_came_before(block, tokens):
    """A whole model, branch by branch, with loops over depth."""
    m = Decoder(small(stream={"name": "attention_residual", "block": block})).init_parameters(0).double()
    with torch.no_grad():
        for name, p in m.named_parameters():
            if name.endswith("query"):
                p.copy_(drawn(*p.shape))

        def attended(sums: list[Tensor], query: Tensor) -> Tensor:
            scores = torch.stack(
                [(y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()) @ query[0] for y in sums]
            )
            weights = scores.softmax(0)
            return sum(w[..., None] * y for w, y in zip(weights, sums, strict=True))

        view = m.views(ForwardContext.of(tokens), torch.double)[0]
        sums = [m.embedding(tokens)]
        number = 0
        for n, layer in enumerate(m.layers):
            for residual, f in (
                (layer.attention_residual, lambda u, n=n, layer=layer: layer.attention(u, view, n)),
                (layer.ffn_residual, lambda u, layer=layer: layer.ffn(u, {})),
            ):
                x = sums[0] if number == 0 else attended(sums, residual.connection.depth.query)
                y = f(residual.input_norm(x))
                if number % block == 0:
                    sums.append(y)
                else:
                    sums[-1] = sums[-1] + y
                number += 1
        x = m.final_norm(attended(sums, m.exit.query))
        torch.testing.assert_close(m(tokens), m.head(x, m.embedding.weight))


@pytest.mark.parametrize("name", ["hyper", "mhc", "attention_residual"])
def test_norms_on_the_stream_are_refused_where_it_is_no_single_sum(name):
    with pytest.raises(ValueError, match=f"stream {name}: is no single sum, so placement post has nowhere"):
        small(stream=name, placement="post")


def test_the_plain_stream_changes_no_id():
    assert small().model_dump()["stream"] == {"name": "plain"}
    old = small().model_dump()
    del old["stream"]
    assert ModelSpec.model_validate(old) == small()
