"""A mixture of attention heads is its formula; its balance loss does not depend on how rows are split."""

import torch
from conftest import small
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.attention.moa import _balance
from ablate.parts.base import ForwardContext

EXPERTS, HEADS, WIDTH = 5, 4, 8  # of a model of width 32


def literal(part, q_turned, k_turned, x: Tensor) -> Tensor:
    """Token by token and expert by expert; keys turned."""
    y = torch.zeros_like(x)
    k, v = (z.unflatten(-1, (2, WIDTH)) for z in (x @ part.k.weight.T, x @ part.v.weight.T))  # (B,T,K,D)
    logits = x @ part.router.weight.T
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            best = logits[b, t].topk(2)
            for gate, e in zip(best.values.softmax(-1), best.indices, strict=True):
                expert = part.experts[int(e)]
                q = q_turned((expert.q.weight @ x[b, t]).view(2, WIDTH), t)
                keys = torch.stack([k_turned(k[b, s], s) for s in range(t + 1)])
                weights = (torch.einsum("kd,skd->ks", q, keys) / WIDTH**0.5).softmax(-1)
                heads = torch.einsum("ks,skd->kd", weights, v[b, : t + 1])
                y[b, t] += gate * (expert.out.weight @ heads.flatten())
    return y + part.output_bias


def test_it_is_its_formula():
    spec = small(attention={"name": "moa", "experts": EXPERTS, "output_bias": True}, position="none", depth=1)
    m = Decoder(spec).init_parameters(0).double()
    part = m.layers[0].attention
    x = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        part.output_bias += torch.arange(32) / 32
        call = ForwardContext.of(x[..., 0])
        call.aux = m.aux()
        (view,) = m.views(call, x.dtype)
        y = part(x, view, 0)
        plain = literal(part, lambda q, t: q, lambda k, s: k, x)
    torch.testing.assert_close(y, plain)


def some_choices() -> tuple[Tensor, Tensor]:
    probability = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    return probability, probability.topk(2, -1).indices


def test_the_balance_of_several_rows_is_their_mean_by_tokens():
    probability, chosen = some_choices()
    real = torch.arange(6)[None] < torch.tensor([6, 3])[:, None]
    whole = _balance(probability, chosen, real)
    first = _balance(probability[:1], chosen[:1], None)
    second = _balance(probability[1:, :3], chosen[1:, :3], None)
    torch.testing.assert_close(whole, (6 * first + 3 * second) / 9)
    assert not torch.isclose(first, second)


def test_even_choices_have_a_balance_of_one():
    chosen = torch.tensor([[[0, 1], [2, 3]]])
    assert _balance(torch.full((1, 2, 4), 0.25), chosen, None) == 1.0
    assert _balance(torch.full((1, 2, 4), 0.25), torch.zeros(1, 2, 2, dtype=torch.long), None) == 1.0
    certain = torch.tensor([0.97, 0.01, 0.01, 0.01]).expand(1, 2, 4)
    assert _balance(certain, torch.tensor([[[0, 1], [0, 1]]]), None) > 1.5
