"""Stability: the curve, and the inside of a model, against direct computations."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from cases import HARD
from measured import text, trained
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from ablate.measure import reads_heldout
from ablate.measure.curve import spike_score
from ablate.measure.hooks import highest_logits, streams
from ablate.measure.stability import growth_of
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import measure, registries

CONTEXT, TOKENS = 24, 96
INSIDE = {"name": "stability", "tokens": TOKENS}


# ----------------------------------------------------------------------------------------- the curve


def test_the_spike_score_is_the_share_far_above_the_values_before():
    draw = np.random.default_rng(0)
    values = draw.normal(size=400)
    values[[150, 301]] += 20
    values[250] -= 20  # a dip is no spike
    high = [
        n
        for n in range(10, 400)
        if values[n] - (w := values[max(0, n - 100) : n]).mean() >= 7 * w.std(ddof=1)
    ]
    assert high == [150, 301]
    assert spike_score(pd.Series(values), window=100) == pytest.approx(2 / 390)


def test_what_cannot_be_judged_is_no_spike():
    values = pd.Series([1.0, *np.random.default_rng(0).normal(size=60)])
    values[5] = 100.0
    assert spike_score(values, window=1000) is None
    assert spike_score(values, window=100) == 0.0  # the spike stands in the first tenth
    assert spike_score(pd.Series([2.0] * 50), window=20) == 0.0


def write_run(folder, record, curve: pd.DataFrame) -> None:
    record.save(folder / record.id)
    curve.to_parquet(folder / record.id / "curve.parquet")


def test_the_numbers_of_the_curve(tmp_path, caplog):
    run, draw = trained({}), np.random.default_rng(1)
    curve = pd.DataFrame({"loss": draw.normal(3, 0.1, 300), "grad_norm": draw.normal(1, 0.1, 300)})
    curve.loc[200, "grad_norm"] = 9.0
    write_run(tmp_path, run.record, curve)
    options = {**INSIDE, "window": 100}
    found = measure.build(options)(run._replace(folder=tmp_path / run.record.id), text()).metrics
    assert found["stability/gradient_mean"] == pytest.approx(curve["grad_norm"].mean())
    assert found["stability/gradient_max"] == 9.0
    assert found["stability/spikes_gradient"] == pytest.approx(1 / 290)
    assert found["stability/spikes_loss"] == 0.0

    without = measure.build(options)(run, text()).metrics
    assert set(found) - set(without) == {
        f"stability/{name}" for name in ("gradient_mean", "gradient_max", "spikes_gradient", "spikes_loss")
    }
    assert "no curve" in caplog.text


# ----------------------------------------------------------------------------------------- the start


@pytest.mark.parametrize(("end", "clipped"), [(2.5, 2.5), (30.0, None)])
def test_the_loss_is_clipped_at_that_of_the_start(end, clipped):
    run, prepared = trained({}, metrics={"validation/loss": end}), text()
    found = measure.build(INSIDE)(run, prepared).metrics
    decoder = Decoder(run.decoder.spec).init_parameters(0).eval()
    tokens = torch.from_numpy(prepared.splits["validation"].tokens[: TOKENS + 1].astype(np.int64))
    with torch.no_grad():
        logits = decoder(tokens[:-1].view(-1, CONTEXT))
    start = float(cross_entropy(logits.flatten(0, 1), tokens[1:]))
    assert found["stability/start_loss"] == pytest.approx(start)
    assert found["stability/clipped_loss"] == pytest.approx(start if clipped is None else clipped)


# ---------------------------------------------------------------------------------- inside the model

CASES = {
    "rope": {},
    "softcap": HARD["qk_norm_softcap"],
    "alibi": {"position": "alibi"},
    "t5": HARD["t5"],
    "everything": HARD["everything"],
    "local_global": HARD["local_global"],
    "post": {"placement": "post"},
    "multi_query": {"attention": {"name": "softmax", "kv_heads": 1}},
}


def seen_scores(decoder, tokens) -> list[float]:
    """The highest score of each layer, from what a kernel is given, one pair of tokens at a time."""
    reference = registries["kernel"].build("reference")
    highest = []

    class Slow(type(reference)):
        def __call__(self, q, k, v, prepared, scores, dropout):
            share = q.shape[1] // k.shape[1]
            bias = prepared.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
            best = -float("inf")
            for b in range(q.shape[0]):
                for h in range(q.shape[1]):
                    for i in range(q.shape[2]):
                        for j in range(i + 1):
                            s = float(q[b, h, i] @ k[b, h // share, j]) * scores.scale
                            if scores.softcap is not None:
                                s = scores.softcap * float(np.tanh(s / scores.softcap))
                            best = max(best, s + float(bias[b, h, i, j]))
            highest.append(best)
            return super().__call__(q, k, v, prepared, scores, dropout)

    was, decoder.kernel = decoder.kernel, Slow()
    decoder(tokens)
    decoder.kernel = was
    return highest


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_highest_logit_is_that_of_the_scores(case, tokens):
    decoder = trained(case).decoder
    few = tokens[:, :9]
    with torch.no_grad():
        plain = decoder(few)
        with highest_logits(decoder) as highest:
            listened = decoder(few)
        expected = seen_scores(decoder, few)
    assert torch.allclose(plain, listened)  # to listen changes nothing
    assert sorted(highest) == list(range(decoder.spec.depth))
    assert [highest[n] for n in sorted(highest)] == pytest.approx(expected)
    assert decoder.kernel.name != "listening"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_measure_is_what_a_plain_pass_over_the_text_gives(case):
    run, prepared = trained(case), text()
    found = measure.build(INSIDE)(run, prepared)
    decoder = run.decoder
    tokens = torch.from_numpy(prepared.splits["validation"].tokens[:TOKENS].astype(np.int64))
    rows = tokens.view(-1, CONTEXT)
    streamed: list[list[float]] = []
    with torch.no_grad():
        logits = decoder(rows)
        x = decoder.embedding_norm(decoder.scale(decoder.embedding(rows)))
        if decoder.positions[0].acts_on_embedding:
            x = decoder.positions[0].embed(x, ForwardContext.of(rows).positions)
        views = decoder.views(ForwardContext.of(rows), x.dtype)
        streamed = [x]
        for n, layer in enumerate(decoder.layers):
            group = decoder.group_of[n]
            x = layer(x, views[group], n)
            streamed.append(x)
        with highest_logits(decoder) as highest:
            decoder(rows)
    variance = [float(x.var(-1, correction=0).mean()) for x in streamed]
    assert found.vectors["stability/residual_variance"] == pytest.approx(variance)
    assert found.metrics["stability/output_logit_mean"] == pytest.approx(float(logits.mean()), abs=1e-9)
    assert found.metrics["stability/max_attention_logit"] == pytest.approx(max(highest.values()))
    assert found.vectors["stability/attention_logit"] == pytest.approx([highest[n] for n in sorted(highest)])
    json.dumps([found.metrics, found.vectors], allow_nan=False)


def test_hooks_are_gone_behind_an_error():
    decoder = trained({}).decoder
    with pytest.raises(IndexError), streams(decoder), highest_logits(decoder):
        decoder(torch.tensor([[decoder.shape.vocab]]))
    assert decoder.kernel.name != "listening"
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in decoder.layers)


def test_growth_is_the_exponent_of_depth():
    assert growth_of([0.1, *(3.0 * n**1.7 for n in range(1, 9))]) == pytest.approx(1.7)
    assert growth_of([0.1, 2.0, 2.0, 2.0]) == pytest.approx(0)
    assert growth_of([0.1, 2.0, 3.0]) is None


def test_options_are_checked_and_no_sealed_split_is_opened():
    assert not reads_heldout("stability")
    for wrong in ({"deviation": 7}, {"deviations": 0}, {"window": 3}):
        with pytest.raises(ValidationError):
            measure.build({"name": "stability", **wrong})
