"""Heads that predict later tokens: their loss written out, and that nothing else knows of them."""

import pytest
import torch
import torch.nn.functional as F
from conftest import small
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.future import NO_TARGET, FutureContext
from ablate.model.measure import count_costs
from ablate.parts.base import ForwardContext, IncompatibleParts

TARGETS = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(3))


def model(name: str, tokens: int = 2, **options: object) -> Decoder:
    future = {"name": name, "tokens": tokens, "weight": 0.5}
    return Decoder(small(future=future, **options)).init_parameters(0).double().train()


def nll(m: Decoder, x: Tensor, targets: Tensor) -> Tensor:
    logits = m.head(x, m.embedding.weight)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum")


@pytest.mark.parametrize("name", ["independent", "chained"])
def test_the_objective_written_out(name, tokens):
    m = model(name)
    seen: list[Tensor] = []
    m.layers[-1].register_forward_hook(lambda mod, given, out: seen.append(out))
    sums = m(tokens, ForwardContext.of(tokens), targets=TARGETS, summed=True)
    view = m.views(ForwardContext.of(tokens), torch.double)[0]
    x, extra = seen[0], []
    for k in (1, 2):
        targets = torch.cat((TARGETS[:, k:], torch.full((2, k), NO_TARGET)), 1)
        if name == "independent":
            h = m.future.layers[k - 1](seen[0], view, 2)
        else:
            later = torch.cat((tokens[:, k:], torch.zeros(2, k, dtype=torch.long)), 1)
            both = torch.cat(
                (m.future.norms_before[k - 1](x), m.future.norms_of_tokens[k - 1](m.embedding(later))), -1
            )
            h = x = m.future.layers[k - 1](m.future.mixes[k - 1](both), view, 2)
        extra.append(nll(m, m.future.norms[k - 1](h), targets))
    main = nll(m, m.final_norm(seen[0]), TARGETS)
    torch.testing.assert_close(sums.nll, main.detach())  # what is reported is the next token's
    torch.testing.assert_close(sums.objective, main + 0.5 * (extra[0] + extra[1]) / 2)


@pytest.mark.parametrize("name", ["independent", "chained"])
def test_evaluation_and_decoding_know_nothing_of_it(name, tokens):
    m, plain = model(name).eval(), Decoder(small()).init_parameters(0).double().eval()
    with torch.no_grad():
        assert torch.equal(m(tokens), plain(tokens))
        a, b = (x(tokens, targets=TARGETS, summed=True) for x in (m, plain))
        assert torch.equal(a.objective, b.objective)
    extra, less = count_costs(m), count_costs(plain)
    assert extra.forward_flops == less.forward_flops and extra.decoding_flops == less.decoding_flops
    assert extra.training_flops > less.training_flops and extra.parameters > less.parameters


def test_a_later_token_of_another_document_is_no_target(tokens):
    lent = FutureContext(
        tokens,
        torch.arange(1, 7)[None],
        torch.tensor([[0, 0, 0, 1, 1, 1]]),
        *[lambda *_: torch.empty(0)] * 3,
    )
    assert lent.later(1).tolist() == [[2, 3, NO_TARGET, 5, 6, NO_TARGET]]
    assert lent.later(2).tolist() == [[3, NO_TARGET, NO_TARGET, 6, NO_TARGET, NO_TARGET]]
    assert lent._replace(document=None).later(2).tolist() == [[3, 4, 5, 6, NO_TARGET, NO_TARGET]]


def test_experts_in_the_last_layer_are_refused():
    experts = {"name": "moe", "experts": 4, "expert": {"name": "glu", "width": 24}}
    with pytest.raises(IncompatibleParts, match="future chained: its layers are as the last one"):
        Decoder(small(ffn=experts, future="chained"))
