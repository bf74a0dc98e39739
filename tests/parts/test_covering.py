"""Every pair of choices builds, trains a step and decodes as it reads; or is refused with a reason."""

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from covering import BASELINE, FACTORS, Row, build, pairs, refusal, refused_alone, refused_pairs, rows, table
from sampled import sampled
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext

SHARES = 8  # so that several workers can take some
CUTS = [0, 13, 15, *range(16, 21)]  # a prompt (with the prefix whole), a piece of two, then token by token


def started(row: Row) -> Decoder:
    """Every parameter moved off its start, so that none hides as a zero or a one."""
    decoder = build(row).init_parameters(0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in decoder.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator).to(p)
    return decoder


def call_of(row: Row, tokens: Tensor) -> ForwardContext:
    call = ForwardContext.of(tokens)
    if row["documents"] == "masked":
        column = torch.arange(tokens.shape[1])
        call = ForwardContext(
            (column - 8 * (column >= 8)).expand(len(tokens), -1), (column >= 8).long().expand(len(tokens), -1)
        )
    if row["sight"].startswith("prefix"):
        call.prefix = torch.tensor([5, 3])
    return call


def faults(row: Row, tokens: Tensor) -> list[str]:
    """What is wrong with the model of a row."""
    torch.manual_seed(0)  # of dropout
    m, call = started(row), call_of(row, tokens)
    wrong = []
    call.aux = m.aux()
    loss = m.train()(tokens, call, targets=tokens.roll(-1, 1))
    total = loss.nll.mean() + m.auxiliary(call.aux)
    if loss.z is not None:
        total = total + m.spec.head.z_loss * loss.z.mean()
    total.backward()
    unchosen = tuple(
        f"layers.{n}.ffn.experts.{e}."
        for n, report in enumerate(call.aux)
        for e, load in enumerate(report.get("load", []))
        if load == 0
    )
    for name, p in m.named_parameters():
        if name.startswith(unchosen):
            continue
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0:
            wrong.append(f"{name} has {'no gradient' if p.grad is None else 'a zero or infinite gradient'}")
    with torch.no_grad():
        for p in m.parameters():
            p -= 0 if p.grad is None else 0.001 * p.grad
        call.aux = None
        whole = m.eval()(tokens, call)
        if not whole.isfinite().all():
            wrong.append("not finite after a step")
        memories, pieces = m.memories(tokens.shape[1]), []
        for a, b in pairwise(CUTS):
            document = None if call.document is None else call.document[:, a:b]
            pieces.append(
                m(tokens[:, a:b], ForwardContext(call.positions[:, a:b], document, call.prefix, memories))
            )
        if not torch.allclose(torch.cat(pieces, 1), whole, rtol=1e-6, atol=1e-8):
            wrong.append(f"cached differs from whole by {(torch.cat(pieces, 1) - whole).abs().max():.1e}")
    return wrong


@pytest.mark.parametrize("share", sampled(map(str, range(SHARES)), 4))
def test_every_pair_trains_a_step_and_decodes_as_it_reads(share, tokens):
    wrong = [(row, found) for row in rows()[int(share) :: SHARES] if (found := faults(row, tokens))]
    assert not wrong, "\n".join(f"{found}: {row}" for row, found in wrong)


def test_the_rows_have_every_pair_that_is_not_refused():
    alone, refused = refused_alone(), refused_pairs()
    covered = {frozenset(pair) for row in rows() for pair in combinations(row.items(), 2)}
    left = [
        p for p in pairs() if p not in refused and not alone.keys() & set(p) and frozenset(p) not in covered
    ]
    assert not left
    assert all(row.keys() == FACTORS.keys() for row in rows())
    assert not {row["kernel"] for row in rows()} & {choice for _, choice in alone}


def test_what_is_refused_is_refused_for_a_reason_by_the_part_that_cannot():
    assert refusal(BASELINE) is None
    for (a, b), reason in refused_pairs().items():
        parts = [f"{factor} {choice}: " for factor, choice in (a, b)]
        parts += [f"{factor} {choice.split()[0]}: " for factor, choice in (a, b) if factor == "stream"]
        parts += [f"attention {choice.split()[0]}: " for factor, choice in (a, b) if factor == "pattern"]
        assert reason.startswith(tuple(parts)), (a, b)


def test_the_compatibility_table_is_current():
    written = (Path(__file__).parents[2] / "docs/compatibility.md").read_text()
    assert written == table(), "python tests/support/covering.py > docs/compatibility.md"
