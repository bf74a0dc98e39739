"""Prefix decoders from data to loss: the prefix sees itself whole, and only what follows is a target."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from training import QUIET, prepared_for, run_spec, write_text

from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Stream
from ablate.measure.score import score
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.train.evaluate import evaluate
from ablate.train.fit import fit

READING = {"attention": {"name": "softmax", "kv_heads": 2, "mask": "prefix"}}
TEXT = Split("train", np.arange(5000, dtype=np.uint16), np.zeros(1, dtype=np.int64), 0)


def data(file, **options):
    source = {"name": "text", "files": [str(file)]}
    return {"source": source, "tokenizer": "bytes", "prefix": True, **options}


def test_only_targets_behind_the_prefix_count():
    stream = Stream(TEXT, 20, "joined", seed=3, prefix=True)
    plain = Stream(TEXT, 20, "joined", seed=3)
    seen = set()
    for step in range(40):
        batch, whole = stream.batch(step, 8), plain.batch(step, 8)
        assert torch.equal(batch.tokens, whole.tokens)
        for row, p in enumerate(batch.prefix.tolist()):
            assert (batch.targets[row, : p - 1] == NO_LOSS).all()
            assert torch.equal(batch.targets[row, p - 1 :], whole.targets[row, p - 1 :])
            seen.add(p)
    assert seen == set(range(1, 20))  # every length from 1 to T - 1


def test_prefixes_are_a_function_of_the_step_and_the_same_for_any_ranks():
    stream = Stream(TEXT, 20, "joined", seed=3, prefix=True)
    one = stream.batch(7, 8).prefix
    both = torch.cat([stream.batch(7, 8, (rank, 2)).prefix for rank in range(2)])
    assert torch.equal(one, both)
    assert not torch.equal(one, stream.batch(8, 8).prefix)
    assert all((batch.prefix == 10).all() for batch in stream.evaluation_batches(4))


def test_a_prefix_decoder_trains_and_is_evaluated_behind_the_prefix(tmp_path):
    file = write_text(tmp_path)
    spec = run_spec(file, READING, data=data(file))
    prepared = prepared_for(spec, tmp_path)
    record = fit(spec, prepared, QUIET, tmp_path / "runs")
    assert record.status == "finished"

    split, m = prepared.splits["validation"], Decoder(spec.model).init_parameters(0).eval()
    found = evaluate(m, split, spec.model.context, "joined", 4, prefix=True)
    half, total, tokens = spec.model.context // 2, 0.0, 0
    with torch.no_grad():
        for batch in Stream(split, spec.model.context, "joined", seed=0).evaluation_batches(1):
            targets = batch.targets.clone()
            targets[:, : half - 1] = NO_LOSS
            call = ForwardContext(batch.positions, prefix=torch.tensor([half]))
            total += m(batch.tokens, call, targets=targets).nll.sum().item()
            tokens += int((targets != NO_LOSS).sum())
    assert found.tokens == tokens
    assert found.nll == pytest.approx(total, rel=1e-5)

    loss_mask = score(tmp_path / "runs" / record.id, tmp_path / "cache", ["heldout"]).metrics
    per_token = loss_mask["heldout/loss"] / math.log(2)
    assert loss_mask["heldout/bits_per_byte"] == pytest.approx(
        per_token / prepared.splits["heldout"].bytes_per_token
    )


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (READING, {"prefix": False}, "need each other"),
        ({}, {"prefix": True}, "need each other"),
        (READING, {"documents": "masked"}, "documents=joined"),
    ],
)
def test_a_mask_without_prefixes_and_prefixes_without_a_mask_are_refused(model, options, said, tmp_path):
    file = write_text(tmp_path)
    with pytest.raises(ValidationError, match=said):
        run_spec(file, model, data=data(file, **options))
