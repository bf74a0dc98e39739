"""Losses at longer contexts against one window for each target, computed by hand."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL
from measured import text, trained
from pydantic import ValidationError

from ablate.measure import reads_heldout
from ablate.measure.length import in_buckets, region_of, stride_of
from ablate.measure.segment import segment
from ablate.registry import measure

CONTEXT = SMALL["context"]
LENGTH = {"multiples": (1, 2, 4), "tokens": 2 * 4 * CONTEXT, "stride": 8, "buckets": 4}


def direct(decoder, tokens: np.ndarray, first: int, targets: range) -> list[float]:
    """The loss of each target in nats: the window begins at token `first` and has no other rules."""
    row = torch.from_numpy(tokens[first : targets.stop - 1].astype(np.int64))[None]
    with torch.no_grad():
        log_p = decoder(row).log_softmax(-1)[0]
    return [-float(log_p[p - 1 - first, int(tokens[p])]) for p in targets]


@pytest.mark.parametrize(
    "case",
    [
        {"position": "rope"},
        {"position": "alibi"},
        {"position": "t5"},
        {"position": "none"},
        {"position": "sinusoidal"},
        {"position": "transformer_xl"},
        {"position": "rope", "attention": {"name": "softmax", "window": 7, "sink_tokens": 2}},
    ],
    ids=str,
)
def test_every_length_agrees_with_a_window_for_each_target(case):
    run, prepared = trained(case), text()
    found = measure.build({"name": "length", **LENGTH})(run, prepared)
    tokens = prepared.splits["heldout"].tokens
    lead, end = 4 * CONTEXT, 3 * 4 * CONTEXT
    for n in LENGTH["multiples"]:
        width = n * CONTEXT
        whole = [
            loss
            for first in range(lead, end, width)
            for loss in direct(run.decoder, tokens, first, range(first + 1, first + width + 1))
        ]
        sliding = [
            loss
            for last in range(lead + 8, end + 1, 8)
            for loss in direct(run.decoder, tokens, last - width, range(last - 7, last + 1))
        ]
        assert len(whole) == len(sliding) == found.metrics["length/targets"] == LENGTH["tokens"]
        assert found.metrics[f"length/whole/loss/{n}x"] == pytest.approx(np.mean(whole))
        assert found.metrics[f"length/sliding/loss/{n}x"] == pytest.approx(np.mean(sliding))
        early = np.mean(whole) - np.mean(sliding)
        assert found.metrics[f"length/early/{n}x"] == pytest.approx(
            early, abs=1e-6
        )  # losses are taken in fp32
        assert found.metrics[f"length/whole/perplexity/{n}x"] == pytest.approx(math.exp(np.mean(whole)))
        by_place = np.reshape(whole, (-1, 4 * n, CONTEXT // 4)).mean((0, 2))
        assert found.vectors[f"length/by_position/{n}x"] == pytest.approx(by_place.tolist())
    for kind in ("whole", "sliding"):
        ratio = found.metrics[f"length/{kind}/perplexity/4x"] / found.metrics[f"length/{kind}/perplexity/1x"]
        assert found.metrics[f"length/{kind}/ratio/4x"] == pytest.approx(ratio)
        assert found.metrics[f"length/{kind}/ratio/1x"] == 1
    assert found.metrics["length/longest"] == 4


def test_positions_that_end_give_no_number_beyond(caplog):
    run, prepared = trained({"position": "learned"}), text()
    found = measure.build({"name": "length", **LENGTH})(run, prepared)
    assert found.metrics["length/reach"] == CONTEXT
    assert found.metrics["length/longest"] == 1
    assert "length/whole/loss/1x" in found.metrics
    assert not [name for name in (*found.metrics, *found.vectors) if name.endswith(("2x", "4x"))]
    assert "positions end at 24, so 2x (48) has no number" in caplog.text
    other = measure.build({"name": "length", **LENGTH})(trained({"position": "rope"}), prepared)
    assert "length/reach" not in other.metrics
    assert found.metrics["length/targets"] == other.metrics["length/targets"]


def test_documents_that_do_not_see_each_other():
    """A window of masked documents is as many windows of one document each."""
    run, prepared = trained({"position": "learned"}, documents="masked"), text(document=20)
    found = measure.build({"name": "length", "multiples": (1,), "tokens": 96, "stride": 8})(run, prepared)
    split = prepared.splits["heldout"]
    losses = []
    for p in range(CONTEXT + 1, CONTEXT + 97):
        begins = max(int(split.document_offsets[split.document_offsets < p].max()), p - 1 - (p - 1) % CONTEXT)
        if p not in split.document_offsets:
            losses += direct(run.decoder, split.tokens, begins, range(p, p + 1))
    assert found.metrics["length/targets"] == len(losses) < 96
    assert found.metrics["length/whole/loss/1x"] == pytest.approx(np.mean(losses))


def test_the_targets_do_not_depend_on_the_size_of_a_pass():
    run, prepared = trained({"position": "alibi"}), text()
    one, many = (
        measure.build({"name": "length", **LENGTH, "pass_tokens": size})(run, prepared) for size in (1, 500)
    )
    assert one.metrics == pytest.approx(many.metrics)


def test_a_text_too_short_for_the_longest_gives_what_it_can(caplog):
    found = measure.build({"name": "length", **LENGTH})(trained({}), text(tokens=5 * CONTEXT))
    assert found.metrics["length/longest"] == 2
    assert found.metrics["length/targets"] == 2 * CONTEXT
    assert "too short for 4x" in caplog.text
    with pytest.raises(ValueError, match=f"needs {2 * CONTEXT + 1}"):
        measure.build("length")(trained({}), text(tokens=2 * CONTEXT))


@pytest.mark.parametrize("available", [2 * 24 + 1, 500, 5000])
@pytest.mark.parametrize("multiples", [(1, 2, 4, 8), (1, 3), (1,), (1, 2, 3)])
def test_the_shared_targets_are_tiled_by_every_length_and_have_their_context(available, multiples):
    region = region_of(available, CONTEXT, multiples, 1000)
    assert region.lead + region.targets < available
    for n in region.multiples:
        assert region.targets % (n * CONTEXT) == 0
        assert region.lead >= n * CONTEXT


def test_the_stride_divides_the_context():
    assert [stride_of(c, None) for c in (24, 64, 128, 200, 256, 7, 1)] == [12, 32, 64, 50, 64, 1, 1]
    with pytest.raises(ValueError, match="stride 7 must divide the training context 24"):
        stride_of(24, 7)


def test_buckets_are_of_equal_width_in_tokens():
    found = torch.stack((torch.arange(12.0, dtype=torch.float64), torch.ones(12, dtype=torch.float64)))
    assert in_buckets(found, 6, 2) == [1, 4, 7, 10]
    found[1, 3:6] = 0
    assert in_buckets(found, 6, 2) is None


def test_a_stretch_begins_with_the_document_that_goes_on():
    whole = text(tokens=200, document=37).splits["heldout"]
    part = segment(whole, 50, 60)
    assert part.tokens.tolist() == whole.tokens[50:110].tolist()
    assert part.document_offsets.tolist() == [0, 24]
    with pytest.raises(ValueError, match="150 to 210"):
        segment(whole, 150, 60)


def test_options_are_checked():
    assert reads_heldout("length")
    for wrong in ({"strid": 8}, {"multiples": [0, 1]}, {"tokens": 0}):
        with pytest.raises(ValidationError):
            measure.build({"name": "length", **wrong})
    with pytest.raises(ValueError, match="multiples must hold 1"):
        measure.build({"name": "length", "multiples": [2, 4]})
