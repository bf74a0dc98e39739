"""What lies in `lease/` and is no claim of ours stops nobody, and a claim of before holds nothing."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from test_store_lease import record, rewrite, win

from ablate.engine.lease import LIMIT, LeaseLost, beating, holder, newest, take, taken
from ablate.engine.store import Store
from ablate.engine.worker import Job, perform_job


def here(**changes: object) -> bytes:
    """A claim of this process number's host with other fields."""
    lease = win(Path("claim"))
    return json.dumps({**json.loads(lease.file.read_bytes()), **changes}).encode()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


DAMAGED = {
    "not UTF-8": lambda: b"\xff\xfe{",
    "no pid": lambda: json.dumps({k: v for k, v in json.loads(here()).items() if k != "pid"}).encode(),
    "no start": lambda: here(started="soon"),
    "a pid of text": lambda: here(pid="12"),
    "a huge pid": lambda: here(pid=10**30),
    "a pid of zero": lambda: here(pid=0),
    "a negative pid": lambda: here(pid=-1),
    "deep": lambda: b"[" * 60_000,
    "long": lambda: b'{"token": "' + b"a" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("way", DAMAGED)
def test_a_damaged_claim_is_an_empty_one_judged_by_its_heartbeat(place: Path, way: str) -> None:
    lease = win(place / "run")
    lease.file.write_bytes(DAMAGED[way]())
    assert taken(place / "run") and take(place / "run") is None
    os.utime(lease.file, (1, 1))
    assert not taken(place / "run")
    assert win(place / "run").number == 2


def test_a_folder_as_a_claim_is_an_empty_one(place: Path) -> None:
    (place / "run" / "lease" / "3").mkdir(parents=True)
    assert taken(place / "run")
    os.utime(place / "run" / "lease" / "3", (1, 1))
    assert win(place / "run").number == 4


@pytest.mark.parametrize("name", ["\u0663", "\u00b2", "9" * 200, "01", "1e3"])
def test_a_name_that_is_no_number_of_a_claim_says_nothing(place: Path, name: str) -> None:
    (place / "run" / "lease").mkdir(parents=True)
    (place / "run" / "lease" / name).touch()
    assert newest(place / "run") == 0 and win(place / "run").number == 1


@pytest.mark.parametrize("what", ["a folder", "a record", "a file"])
def test_an_outbox_without_its_claim_is_cleared_away(place: Path, what: str) -> None:
    outbox = place / "run" / "lease" / "1.out"
    outbox.parent.mkdir(parents=True)
    if what == "a file":
        outbox.touch()
    else:
        outbox.mkdir()
    if what == "a record":
        record(heldout_reads=7).save(outbox)
    store = Store(place)
    report = perform_job(store, Job("run", {}), lambda payload: record(1).save(Path(payload["outbox"])))
    assert report.status == "finished" and store.load("run").heldout_reads == 1
    assert what == "a file" or not outbox.exists()


@pytest.mark.parametrize(("ahead", "free"), [(LIMIT / 2, False), (10 * LIMIT, True), (3e8, True)])
def test_a_heartbeat_far_in_the_future_is_no_sign_of_life(place: Path, ahead: float, free: bool) -> None:
    lease = win(place / "run")
    rewrite(lease, -ahead, where=["elsewhere", "boot", "pid:[1]"], pid=1)
    assert taken(place / "run") is not free
    assert (take(place / "run") is not None) is free


def test_after_a_run_was_deleted_the_holder_from_before_has_lost_it(place: Path) -> None:
    store, folder = Store(place), place / "run"
    first = win(folder)
    shutil.rmtree(folder)
    second = win(folder)
    assert first.number == second.number and first.outbox != second.outbox
    assert second.held() and not first.held()
    record(heldout_reads=1).save(first.outbox)
    with pytest.raises(LeaseLost):
        store.commit(first)
    before = second.file.read_bytes()
    first.release()
    assert second.file.read_bytes() == before and second.held() and taken(folder)
    record(heldout_reads=2).save(second.outbox)
    store.commit(second)
    assert store.load("run").heldout_reads == 2


def test_a_lost_holder_keeps_nobody_elses_heartbeat(place: Path) -> None:
    first, lost = win(place / "run"), threading.Event()
    shutil.rmtree(place / "run")
    second = win(place / "run")
    os.utime(second.file, (1, 1))
    with beating(first, lost.set, every=0.01):
        assert lost.wait(20)
        time.sleep(0.05)
    assert second.file.stat().st_mtime == 1


def test_the_holder_is_named(place: Path) -> None:
    lease = win(place / "run")
    rewrite(lease, where=["a.host", "boot", "pid:[1]"], pid=12)
    assert holder(place / "run") == f"a.host, process 12 ({lease.file})"
    reports = perform_job(Store(place), Job("run", {}), lambda payload: None)
    assert reports.status == "elsewhere" and reports.reason == f"waiting for {holder(place / 'run')}"
    rewrite(lease, where=["\x1b[2J"], pid="x")
    assert holder(place / "run") == f"an unknown host, process unknown ({lease.file})"
    shutil.rmtree(place / "run")
    assert holder(place / "run") == "nobody any more"
