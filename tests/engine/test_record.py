"""A record is what was written, or none: flipped bits, halves, numbers that are no numbers, other ids."""

import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest
from training import run_spec

from ablate.engine.store import Store, identity_of
from ablate.record import RunRecord
from ablate.spec import RunSpec

FINGERPRINT = {"source": "s", "tokenizer": "t"}


def a_record(id: str = "", **changes: Any) -> RunRecord:
    """The record of a small run, with a number in every group."""
    spec = run_spec(Path("text"))
    return RunRecord(
        id=id or spec.id(FINGERPRINT),
        status="finished",
        source_hash="c",
        spec=spec.model_dump(mode="json"),
        fingerprint=FINGERPRINT,
        **{
            "metrics": {"validation/loss": 1.9876543210123, "validation/perplexity": 7.298, "other": None},
            "vectors": {"heldout/by_document": [1e22, -0.0, 3.25e-7]},
            "counts": {"parameters": 1234567.0},
            "provenance": {"began": "2026-01-01", "data": {"é": [1, None, True]}},
            **changes,
        },
    )


def damaged(file: Path, content: bytes) -> RunRecord | None:
    file.write_bytes(content)
    try:
        return RunRecord.load(file.parent)
    except ValueError:
        return None


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = a_record()
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record
    (tmp_path / "record.json").write_text(json.dumps(json.loads((tmp_path / "record.json").read_text())))
    assert RunRecord.load(tmp_path) == record  # the hash is of the content, not of its layout


@pytest.mark.parametrize("flips", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_flipped_bit_passes_for_another_number(tmp_path: Path, flips: int) -> None:
    record = a_record()
    record.save(tmp_path)
    file, draw = tmp_path / "record.json", random.Random(flips)
    whole = file.read_bytes()
    refused = 0
    for _ in range(flips):
        content = bytearray(whole)
        content[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        found = damaged(file, bytes(content))
        assert found in (None, record)  # white space may change
        refused += found is None
    assert refused > 0.5 * flips


def test_no_part_of_a_record_passes_for_one(tmp_path: Path) -> None:
    a_record().save(tmp_path)
    file, draw = tmp_path / "record.json", random.Random(0)
    whole = file.read_bytes()
    for _ in range(200):
        assert damaged(file, whole[: draw.randrange(len(whole))]) is None


@pytest.mark.parametrize("change", ["a metric", "no hash", "1e999", "NaN", "Infinity", "deep"])
def test_an_edited_record_is_none(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    record = a_record()
    record.save(tmp_path / record.id)
    file = tmp_path / record.id / "record.json"
    text = file.read_text()
    file.write_text(
        {
            "a metric": text.replace("1.9876543210123", "1.5"),
            "no hash": json.dumps({k: v for k, v in json.loads(text).items() if k != "hash"}),
            "deep": "[" * 200_000,
        }.get(change, text.replace("1.9876543210123", change))
    )
    with caplog.at_level(logging.WARNING):
        assert Store(tmp_path).find(record.id) is None
    assert f"{file} is not a record" in caplog.text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_recorded(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match=r"metrics\.loss"):
        a_record(metrics={"loss": number})
    record = a_record()
    with pytest.raises(ValueError, match=f"the record of {record.id} cannot be saved: .*finite"):
        record.model_copy(update={"metrics": {"loss": number}}).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_another_specification_is_no_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, record = Store(tmp_path), a_record()
    record.save(store.folder(record.id))
    assert store.finished(record.id, "c")
    seed = {"init": 7, "data": 7, "dropout": 7}
    for changed in ({"clip": 0.25}, {"seed": {**seed, "redraw": ["embedding.*"]}}, {"seed": seed}):
        caplog.clear()
        other = record.model_copy(update={"spec": {**record.spec, **changed}})
        assert identity_of(other) == RunSpec.model_validate(other.spec).id(other.fingerprint)
        other.save(store.folder(record.id))
        with caplog.at_level(logging.WARNING):
            assert not store.finished(record.id, "c")
        assert "record.json has the specification of" in caplog.text
