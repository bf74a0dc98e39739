"""The store: what counts as done, what a broken record is, and how an outcome is kept."""

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from ablate.engine.lease import take
from ablate.engine.store import Store
from ablate.engine.worker import Job, perform_job
from ablate.record import RunRecord


def record(id: str, status: Any = "finished", source_hash: str = "c", **rest: Any) -> RunRecord:
    return RunRecord(id=id, status=status, source_hash=source_hash, spec={}, fingerprint={}, **rest)


def commit(store: Store, made: RunRecord) -> RunRecord:
    lease = take(store.folder(made.id))
    assert lease is not None
    made.save(lease.outbox)
    stands = store.commit(lease)
    lease.release()
    return stands


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ("finished", True),
        ("diverged", True),
        ("out_of_memory", True),
        ("refused", True),
        ("crashed", False),
        ("interrupted", False),
    ],
)
def test_outcomes_are_done_and_missing_data_is_not(tmp_path: Path, status: str, done: bool) -> None:
    store = Store(tmp_path)
    record("a", status).save(tmp_path / "a")
    assert store.finished("a", "c") is done
    assert store.finished("a", "other") is False
    assert store.finished("b", "c") is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"id": "a"}',
        "\x00\x00",
        record("b").model_dump_json(),
        json.dumps({**record("a").model_dump(), "status": "great"}),
        json.dumps({**record("a").model_dump(), "more": 1}),
    ],
    ids=["empty", "half", "list", "null", "fields", "zeros", "of-another", "status", "extra"],
)
def test_a_broken_record_is_reported_and_missing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    record("fine").save(tmp_path / "fine")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert [r.id for r in store.records()] == ["fine"]
        assert store.finished("a", "c") is False
    assert list(store.broken) == ["a"]
    assert caplog.text.count("a/record.json") == 1  # said once
    with pytest.raises(ValueError, match=r"a/record\.json is "):
        store.load("a")
    commit(store, record("a"))
    assert store.finished("a", "c")
    assert store.broken == {}


def test_folders_without_a_record_and_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "begun" / "lease").mkdir(parents=True)
    (tmp_path / ".submitit").mkdir()
    (tmp_path / "note.txt").write_text("x")
    store = Store(tmp_path)
    assert list(store.records()) == []
    assert store.broken == {}
    assert list(Store(tmp_path / "nowhere").records()) == []


@pytest.mark.parametrize("status", ["crashed", "interrupted"])
def test_missing_data_never_replaces_an_outcome(tmp_path: Path, status: str) -> None:
    store = Store(tmp_path)
    commit(store, record("a", source_hash="old"))
    assert commit(store, record("a", status, source_hash="new")).status == "finished"
    assert store.load("a").source_hash == "old"


@pytest.mark.parametrize("status", ["refused", "out_of_memory"])
def test_what_a_machine_cannot_do_never_replaces_what_the_same_sources_trained(tmp_path, status: str) -> None:
    store = Store(tmp_path)
    assert commit(store, record("a", status)).status == status
    assert commit(store, record("a")).status == "finished"
    assert commit(store, record("a", status)).status == "finished"
    assert commit(store, record("a", status, source_hash="new")).status == status


@pytest.mark.parametrize("status", ["interrupted", "crashed", "refused"])
def test_a_run_done_again_reports_how_it_ended_itself(tmp_path: Path, status: str) -> None:
    store = Store(tmp_path)
    commit(store, record("a"))
    again = Job("a", {})
    report = perform_job(store, again, lambda payload: record("a", status).save(Path(payload["outbox"])))
    assert report.status == status and store.load("a").status == "finished"


def test_a_stale_outcome_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, record("a", source_hash="old", heldout_reads=1))
    commit(store, record("a", source_hash="new", heldout_reads=2))
    assert store.load("a").heldout_reads == 2
    kept = RunRecord.read(tmp_path / "a" / "record.old.json")
    assert kept.heldout_reads == 1
    assert [r.source_hash for r in store.records()] == ["new"]


def test_a_stale_outcome_is_kept_without_hard_links(tmp_path: Path, monkeypatch) -> None:
    def link(*names: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    test_a_stale_outcome_is_kept_beside_the_new_one(tmp_path)


def test_a_full_disk_names_the_file_and_leaves_the_one_before(tmp_path: Path, monkeypatch) -> None:
    record("r0").save(tmp_path)
    before = (tmp_path / "record.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/record\.json"):
        record("r0", source_hash="other").save(tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_a_record_is_read_once_and_again_when_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reads = Store(tmp_path), []
    find = store.find
    monkeypatch.setattr(store, "find", lambda id: (reads.append(id), find(id))[1])
    record("a", metrics={"loss": 2.0}, speed={"seconds": 3.0}).save(tmp_path / "a")
    for _ in range(3):
        assert store.finished("a", "c")
        summary = store.summary("a")
        assert summary is not None and summary.columns() == record("a").columns() | {
            "loss": 2.0,
            "speed/seconds": 3.0,
        }
    assert reads == ["a"]
    assert store.summary("b") is None
    record("a", "diverged", metrics={"loss": 2.0}).save(tmp_path / "a")
    summary = store.summary("a")
    assert summary is not None and summary.status == "diverged" and summary["speed/seconds"] is None
    assert reads == ["a", "a"]
    (tmp_path / "a" / "record.json").unlink()
    assert store.summary("a") is None
