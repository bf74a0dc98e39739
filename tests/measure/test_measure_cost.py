"""Costs: counted ones against the model's own memories, timed ones against the clock they are given."""

import itertools

import pytest
import torch
from measured import text, trained
from pydantic import ValidationError

from ablate.measure import cost
from ablate.parts.base import ForwardContext
from ablate.registry import measure

CHOSEN = {"name": "cost", "contexts": (5, 12), "batches": (1, 3), "new": 4, "repeats": 1}


def test_bytes_are_those_that_a_cache_holds():
    run = trained({}, dtype=torch.float32)
    found = measure.build(CHOSEN)(run, text()).metrics
    memories = run.decoder.memories(10)
    with torch.no_grad():
        call = ForwardContext(torch.arange(10)[None], memories=memories)
        run.decoder(torch.zeros(1, 10, dtype=torch.long), call)
    stored = sum(x.nbytes for memory in memories for kv in memory.stored.values() for x in kv)
    assert found["cost/kv_bytes_per_token"] == stored / 10
    assert found["cost/training_flops"] == 3 * found["cost/forward_flops"]


def test_what_training_took_is_passed_on():
    run = trained({}, speed={"tokens_per_second": 5.0, "seconds": 2.0}, memory={"peak_resident_bytes": 7.0})
    found = measure.build({**CHOSEN, "contexts": ()})(run, text()).metrics
    assert found["cost/training_tokens_per_second"] == 5.0
    assert found["cost/training_seconds"] == 2.0
    assert found["cost/training_peak_resident_bytes"] == 7.0


def test_the_first_token_and_the_others_are_timed_apart(monkeypatch):
    """A clock that ticks once at each look: looks are at the start, after the first token, at the end."""
    ticks = itertools.accumulate(itertools.cycle([1.0, 2.0, 8.0]))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(ticks))
    found = measure.build(CHOSEN)(trained({}), text()).metrics
    for batch, context in itertools.product((1, 3), (5, 12)):
        assert found[f"cost/first_token_seconds/{batch}x{context}"] == 2.0
        assert found[f"cost/decode_tokens_per_second/{batch}x{context}"] == batch * 3 / 8.0


def test_each_prompt_is_read_and_continued_as_asked(monkeypatch):
    asked = []

    def listen(decoder, prompts, new):
        asked.append((len(prompts), {len(prompt) for prompt in prompts}, new))
        return original(decoder, prompts, new)

    original = cost.generate
    monkeypatch.setattr(cost, "generate", listen)
    measure.build({**CHOSEN, "repeats": 2})(trained({}), text(tokens=20))
    assert asked == [(b, {c}, 4) for c in (5, 12) for b in (1, 3) for _ in range(3)]


def test_contexts_beyond_the_positions_have_no_number(caplog):
    found = measure.build({**CHOSEN, "contexts": (21, 22)})(trained({"position": "learned"}), text()).metrics
    assert "cost/first_token_seconds/1x21" in found  # 24 positions: the last new token is not read
    assert "cost/first_token_seconds/1x22" not in found
    assert "a context of 22 has no number" in caplog.text


def test_options_are_checked():
    for wrong in ({"context": 3}, {"new": 1}, {"batches": [0]}):
        with pytest.raises(ValidationError):
            measure.build({"name": "cost", **wrong})
