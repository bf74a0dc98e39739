"""Leases: one holder at a time, dead ones replaced by exactly one, lost ones without effect."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ablate.engine.lease as leases
from ablate.engine.lease import Lease, LeaseLost, beating, newest, take, taken
from ablate.engine.store import Store
from ablate.record import UMASK, RunRecord

spawn = multiprocessing.get_context("spawn")


def record(heldout_reads: int) -> RunRecord:
    return RunRecord(
        id="run", status="finished", source_hash="c", spec={}, fingerprint={}, heldout_reads=heldout_reads
    )


def rewrite(lease: Lease, age: float = 0.0, **changes: Any) -> None:
    """Make a claim look like another's: on another host, of another process, with an old heartbeat."""
    claim = json.loads(lease.file.read_text())
    lease.file.write_text(json.dumps({**claim, **changes}))
    os.utime(lease.file, (time.time() - age, time.time() - age))


def win(folder: Path) -> Lease:
    lease = take(folder)
    assert lease is not None
    return lease


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lease = win(tmp_path / "run")
    assert lease.held()
    assert taken(tmp_path / "run")
    assert take(tmp_path / "run") is None
    lease.release()
    assert not taken(tmp_path / "run")
    again = win(tmp_path / "run")
    assert again.number == 2
    assert not lease.held()


def test_colleagues_can_read_a_claim(tmp_path: Path) -> None:
    lease = win(tmp_path)
    assert lease.file.stat().st_mode & 0o777 == 0o666 & ~UMASK


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    source_hash = (
        "import sys, time; from pathlib import Path; from ablate.engine.lease import take\n"
        "assert take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", source_hash, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert take(tmp_path) is None
    holder.send_signal(signal.SIGSTOP)  # suspended is not dead
    os.utime(tmp_path / "lease" / "1", (1, 1))
    assert take(tmp_path) is None
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    assert win(tmp_path).number == 2
    holder.communicate()


def test_a_process_number_given_to_another_process_is_no_life(tmp_path: Path) -> None:
    lease = win(tmp_path)
    rewrite(lease, started=1)
    assert take(tmp_path) is not None


@pytest.mark.parametrize(("age", "free"), [(10.0, False), (1000.0, True)])
def test_from_another_host_the_heartbeat_decides(tmp_path: Path, age: float, free: bool) -> None:
    lease = win(tmp_path)
    rewrite(lease, age, where=["elsewhere", "boot", "pid:[1]"], pid=1)
    assert taken(tmp_path) is not free
    assert (take(tmp_path) is not None) is free


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_claim_that_cannot_be_read_is_judged_by_its_heartbeat(tmp_path: Path, text: str) -> None:
    lease = win(tmp_path)
    lease.file.write_text(text)
    assert take(tmp_path) is None
    os.utime(lease.file, (1, 1))
    assert take(tmp_path) is not None


def contend(folder: str, start: Any, wins: Any) -> None:
    start.wait()
    wins.put(take(Path(folder)) is not None)
    time.sleep(0.5)  # winners must be alive while the others look


@pytest.mark.parametrize("before", ["nothing", "dead", "released"])
def test_exactly_one_of_several_contenders_wins(tmp_path: Path, before: str) -> None:
    if before != "nothing":
        lease = win(tmp_path)
        rewrite(lease, started=1) if before == "dead" else lease.release()
    start, wins = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=contend, args=(str(tmp_path), start, wins)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [wins.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sum(results) == 1


def test_a_contender_with_an_old_view_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = win(tmp_path)
    rewrite(first, started=1)
    second = win(tmp_path)  # took over
    monkeypatch.setattr(leases, "newest", lambda folder: 1)
    rewrite(first, started=1)
    assert leases.take(tmp_path) is None
    monkeypatch.undo()
    assert second.held()
    second.release()
    monkeypatch.setattr(leases, "newest", lambda folder: 1)
    assert leases.take(tmp_path) is None  # released claims keep their name, too


def test_claims_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*names: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    assert take(tmp_path) is not None
    assert take(tmp_path) is None


@pytest.mark.parametrize("moment", ["before saving", "after saving", "after its check"])
def test_a_holder_that_lost_its_lease_changes_nothing(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder is suspended at `moment`, declared dead, and wakes up when its successor is done."""
    store, folder = Store(tmp_path), tmp_path / "run"
    holder = win(folder)

    def successor() -> None:
        rewrite(holder, started=1)
        new = win(folder)
        record(heldout_reads=2).save(new.outbox)
        store.commit(new)
        new.release()

    if moment == "before saving":
        successor()
        record(heldout_reads=1).save(holder.outbox)
    elif moment == "after saving":
        record(heldout_reads=1).save(holder.outbox)
        successor()
    else:
        record(heldout_reads=1).save(holder.outbox)
        monkeypatch.setattr(Lease, "held", lambda self: self is not holder or successor() is None)
    with pytest.raises(LeaseLost):
        store.commit(holder)
    holder.release()
    assert store.load("run").heldout_reads == 2
    assert newest(folder) == 2
    assert not taken(folder)


def test_the_heartbeat_moves_and_tells_of_a_loss(tmp_path: Path) -> None:
    lease, lost = win(tmp_path), threading.Event()
    os.utime(lease.file, (1, 1))
    with beating(lease, lost.set, every=0.02):
        deadline = time.monotonic() + 20
        while lease.file.stat().st_mtime < 1000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.file.stat().st_mtime > 1000
        assert not lost.is_set()
        rewrite(lease, started=1)
        win(tmp_path)
        assert lost.wait(20)


def test_a_holder_that_wakes_inside_its_commit_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw that it holds the run, was suspended, and another did the run to its end meanwhile."""
    store, folder = Store(tmp_path), tmp_path / "run"

    def leave(lease: Lease, number: int) -> None:
        for name in ("weights/model.safetensors", "tokenizer/end.json", "curve.parquet"):
            (lease.outbox / name).parent.mkdir(parents=True, exist_ok=True)
            (lease.outbox / name).write_text(f"of {number}")
        record(number).model_copy(update={"weights_hash": "a"}).save(lease.outbox)

    def suspended(lease: Lease) -> bool:
        answer = held(lease)
        if lease.number == 1:
            rewrite(lease, where=["elsewhere", "boot", "pid:[1]"], age=1e6)
            second = win(folder)
            leave(second, 2)
            store.commit(second)
        return answer

    held = Lease.held
    first = win(folder)
    leave(first, 1)
    monkeypatch.setattr(Lease, "held", suspended)
    with pytest.raises(LeaseLost):
        store.commit(first)
    assert store.load("run").heldout_reads == 2
    texts = {path.read_text() for path in folder.rglob("*") if path.suffix in (".safetensors", ".parquet")}
    assert texts == {"of 2"} and (folder / "tokenizer" / "end.json").read_text() == "of 2"


def test_what_an_outcome_does_not_name_is_removed_when_it_is_stored(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "run"
    for name in ("weights/model.safetensors", "tokenizer/end.json", "curve.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of other sources")
    lease = win(folder)
    record(1).save(lease.outbox)
    store.commit(lease)
    assert not [
        folder / name for name in ("weights", "tokenizer", "curve.parquet") if (folder / name).exists()
    ]
