"""The local engine: every run once, failures by class, kills survived, two engines on one store."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ablate.engine.launch import EngineError, Event, launch
from ablate.engine.lease import taken
from ablate.engine.process import environment
from ablate.engine.slots import Slot, cpu_slots, gpu_slots
from ablate.engine.store import Store
from ablate.engine.worker import Job

WORK = "store_work:work"


def job(folder: Path, n: int, seconds: float = 0.05, way: str = "", **rest: Any) -> Job:
    payload = {
        "id": f"r{n}",
        "source_hash": "c",
        "seed": n,
        "log": str(folder / "log"),
        "seconds": seconds,
        "way": way,
    }
    return Job(f"r{n}", payload, source_hash="c", spec={"seed": n}, **rest)


def run(
    folder: Path, jobs: list[Job], slots: int | list[Slot] = 2, work: str = WORK, **options: Any
) -> list[Event]:
    events: list[Event] = []
    spread = cpu_slots(slots) if isinstance(slots, int) else slots
    launch(jobs, spread, work, events.append, store=Store(folder / "runs"), **options)
    return events


def log(folder: Path) -> list[tuple[int, str, str, int]]:
    """(time, begin or end, run, process) in order."""
    if not (folder / "log").exists():
        return []
    lines = (line.split() for line in (folder / "log").read_text().splitlines())
    return sorted((int(at), what, id, int(pid)) for at, what, id, pid in lines)


def count(folder: Path, what: str) -> Counter[str]:
    return Counter(id for _, w, id, _ in log(folder) if w == what)


def statuses(folder: Path) -> dict[str, str]:
    return {record.id: record.status for record in Store(folder / "runs").records()}


def wait_for(what: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def engine(
    folder: Path, jobs: list[Job], before: Sequence[str] = (), **options: Any
) -> "subprocess.Popen[str]":
    """Another process that launches the same jobs. `before` are words that stand before its command."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from ablate.engine.launch import launch\n"
        "from ablate.engine.slots import cpu_slots\n"
        "from ablate.engine.store import Store\n"
        "from ablate.engine.worker import Job\n"
        "said = json.loads(sys.argv[1])\n"
        "launch([Job(**j) for j in said['jobs']], cpu_slots(2), said['work'], lambda e: print(e, flush=True),"
        " store=Store(Path(said['store'])), check=0.1, **said['options'])\n"
    )
    said = {"jobs": [vars(j) for j in jobs], "work": WORK, "store": str(folder / "runs"), "options": options}
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, json.dumps(said)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_all_runs_once_in_warm_workers_and_skipped_the_next_time(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n) for n in range(8)]
    events = run(tmp_path, jobs)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(8)}
    assert set(count(tmp_path, "begin").values()) == {1}
    assert len({pid for *_, pid in log(tmp_path)}) == 2  # each worker did several
    assert Counter(e.kind for e in events) == {"begun": 8, "ended": 8}
    assert (tmp_path / "runs" / "r3" / "log").read_text() == "hello from r3\n"
    assert {record.kernel for record in Store(tmp_path / "runs").records()} == {"1"}  # threads in the worker
    assert Counter(e.kind for e in run(tmp_path, jobs)) == {"skipped": 8}
    assert sum(count(tmp_path, "begin").values()) == 8


def test_other_sources_make_a_record_stale_and_the_run_is_done_again(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, 0)])
    new = Job("r0", {**job(tmp_path, 0).payload, "source_hash": "new"}, source_hash="new")
    assert [e.kind for e in run(tmp_path, [new])] == ["begun", "ended"]
    assert Store(tmp_path / "runs").load("r0").source_hash == "new"
    assert (tmp_path / "runs" / "r0" / "record.c.json").exists()


@pytest.mark.parametrize(
    ("way", "status", "reason", "tries"),
    [
        ("raise", "crashed", "ArithmeticError: as asked", 2),
        ("kill", "crashed", "SIGKILL", 2),
        ("fork kill", "crashed", "SIGKILL", 2),
        ("segfault", "crashed", "SIGSEGV", 2),
        ("silent", "crashed", "no record", 2),
        ("diverged", "diverged", "", 1),
        ("kill once", "finished", "", 2),
    ],
)
def test_a_failure_is_an_outcome_and_takes_only_its_own_run(
    tmp_path: Path, way: str, status: str, reason: str, tries: int
) -> None:
    jobs = [job(tmp_path, 0, way=way), *(job(tmp_path, n) for n in range(1, 5))]
    events = run(tmp_path, jobs)
    assert statuses(tmp_path) == {"r0": status} | {f"r{n}": "finished" for n in range(1, 5)}
    record = Store(tmp_path / "runs").load("r0")
    assert reason in record.reason
    assert record.spec == {"seed": 0}
    assert count(tmp_path, "begin") == {"r0": tries} | {f"r{n}": 1 for n in range(1, 5)}
    assert [e.kind for e in events if e.id == "r0" and e.kind != "begun"] == ["again", "ended"][2 - tries :]
    again = run(tmp_path, jobs, retries=0)
    assert [e.kind for e in again if e.id == "r0"] == (
        ["begun", "ended"] if status == "crashed" else ["skipped"]
    )


def test_a_crash_in_c_leaves_its_stack_in_a_warm_worker_too(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, 0, way="signals"), job(tmp_path, 1, way="segfault")], slots=1, retries=0)
    assert statuses(tmp_path) == {"r0": "finished", "r1": "crashed"}
    assert len({pid for *_, pid in log(tmp_path)}) == 1
    said = (tmp_path / "runs" / "r1" / "log").read_text()
    assert "Segmentation fault" in said and "store_work.py" in said


def test_a_full_disk_stops_the_engine_and_what_was_done_stays(tmp_path, monkeypatch) -> None:
    jobs = [job(tmp_path, 0), job(tmp_path, 1, way="kill once"), job(tmp_path, 2)]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("ablate.engine.launch.record_missing", full)
        with pytest.raises(EngineError, match=r"written: No space left.*run this again"):
            run(tmp_path, jobs, slots=1)
    assert statuses(tmp_path) == {"r0": "finished"}
    run(tmp_path, jobs, slots=1)
    assert statuses(tmp_path) == dict.fromkeys(("r0", "r1", "r2"), "finished")
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 2, "r2": 1}


def test_a_broken_record_is_done_again(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, 0)])
    (tmp_path / "runs" / "r0" / "record.json").write_text('{"id": "r0"')
    assert [e.kind for e in run(tmp_path, [job(tmp_path, 0)])] == ["begun", "ended"]
    assert statuses(tmp_path) == {"r0": "finished"}


def test_killing_the_engine_loses_nothing(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n, seconds=0.15) for n in range(10)]
    first = engine(tmp_path, jobs)
    wait_for(lambda: len(statuses(tmp_path)) >= 3)
    first.kill()
    first.communicate()
    done = {id for id, status in statuses(tmp_path).items() if status == "finished"}
    assert len(done) >= 3
    run(tmp_path, jobs, check=0.1)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(10)}
    assert all(count(tmp_path, "begin")[id] == 1 for id in done)
    assert no_overlap(log(tmp_path))


def test_a_worker_ends_where_its_engine_was_killed_within_a_word(tmp_path: Path) -> None:
    to, told = os.pipe()
    heard, back = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "ablate.engine.worker", str(to), str(back)],
        pass_fds=(to, back),
        start_new_session=True,
    )
    start = {"work": WORK, "together": None, "after": None, "path": sys.path, "store": "", "grace": 5.0}
    os.write(told, json.dumps(start).encode() + b'\n{"jobs": [{"id": "r')
    os.close(told)
    try:
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        for end in (to, back, heard):
            os.close(end)


def no_overlap(lines: list[tuple[int, str, str, int]]) -> bool:
    """Whether no run was ended twice, or begun after its end."""
    ended = set()
    for _, what, id, _ in lines:
        if id in ended:
            return False
        if what == "end":
            ended.add(id)
    return True


def test_two_engines_share_the_work(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n, seconds=0.1) for n in range(16)]
    engines = [engine(tmp_path, jobs) for _ in range(2)]
    said = [e.communicate(timeout=60)[0] for e in engines]
    assert [e.returncode for e in engines] == [0, 0], said
    assert set(count(tmp_path, "begin").values()) == {1}
    assert count(tmp_path, "end") == {f"r{n}": 1 for n in range(16)}
    assert len({pid for *_, pid in log(tmp_path)}) == 4  # both took part
    assert all("status='finished'" in text for text in said)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything_in_order(tmp_path: Path, number: int, status: int) -> None:
    jobs = [job(tmp_path, n, seconds=0.05 if n < 2 else 60) for n in range(6)]
    first = engine(tmp_path, jobs)
    wait_for(lambda: sum(count(tmp_path, "begin").values()) == 4)
    first.send_signal(number)
    text = first.communicate(timeout=30)[0]
    assert first.returncode in (status, -number), text
    after = statuses(tmp_path)
    assert Counter(after.values()) == {"finished": 2, "interrupted": 2}
    assert not any(taken(tmp_path / "runs" / id) for id in after)


def test_a_worker_that_does_not_stop_is_killed_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(
        "import signal, time\n"
        "def work(payload):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    open(payload['log'], 'w').close()\n"
        "    time.sleep(60)\n"
    )
    sys.path.insert(0, str(tmp_path))

    def stop(event: Event) -> None:
        if event.kind == "begun":
            wait_for((tmp_path / "log").exists)
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            launch(
                [job(tmp_path, 0)], cpu_slots(1), "deaf:work", stop, store=Store(tmp_path / "runs"), grace=0.5
            )
    finally:
        sys.path.remove(str(tmp_path))
    assert statuses(tmp_path) == {"r0": "interrupted"}


def test_workers_are_renewed(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, n, seconds=0.01) for n in range(4)], slots=1, recycle=2)
    assert len({pid for *_, pid in log(tmp_path)}) == 2
    run(tmp_path, [job(tmp_path, n, seconds=0.01) for n in range(4, 6)], slots=1, memory=1.0)
    assert len({pid for *_, pid in log(tmp_path)}) == 4
    assert set(statuses(tmp_path).values()) == {"finished"}


def test_runs_begin_in_their_order_but_wide_ones_first(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n, seconds=0.01) for n in range(4)]
    begun = [e.id for e in run(tmp_path, jobs, slots=1) if e.kind == "begun"]
    assert begun == ["r0", "r1", "r2", "r3"]
    more = [job(tmp_path, n, seconds=0.01, devices=1 + (n == 6)) for n in range(4, 8)]
    events = [e for e in run(tmp_path, more) if e.kind == "begun"]
    assert (events[0].id, events[0].slot) == ("r6", "cpu0+cpu1")
    assert {e.slot for e in events[1:]} <= {"cpu0", "cpu1"}


def test_what_cannot_be_done_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run r0 needs 3 devices; the slots have 2"):
        run(tmp_path, [job(tmp_path, 0, devices=3)])
    shared = [Slot("gpu0.0", "0"), Slot("gpu0.1", "0")]
    with pytest.raises(ValueError, match="needs 2 devices; the slots have 1"):
        run(tmp_path, [job(tmp_path, 0, devices=2)], slots=shared)
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        run(tmp_path, [job(tmp_path, n) for n in range(3)], work="nowhere:work")
    assert statuses(tmp_path) == {}


def test_gpu_slots_and_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = gpu_slots(["0", "3"], each=2)
    assert [(s.name, s.gpu) for s in slots] == [
        ("gpu0.0", "0"),
        ("gpu3.0", "3"),
        ("gpu0.1", "0"),
        ("gpu3.1", "3"),
    ]
    assert environment((slots[0], slots[1]))["CUDA_VISIBLE_DEVICES"] == "0,3"
    assert environment(tuple(cpu_slots(1)))["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(tuple(cpu_slots(1)))["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert [s.gpu for s in gpu_slots()] == ["5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="no GPU"):
        gpu_slots()


def test_what_comes_after_a_run_is_no_outcome_of_it(tmp_path):
    jobs = [job(tmp_path, n, way="diverged" if n == 3 else "") for n in range(4)]
    for n, how in enumerate(("", "raise", "kill")):
        jobs[n].payload["after"] = how
    events = run(tmp_path, jobs, after="store_work:after")
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished", "r2": "finished", "r3": "diverged"}
    assert count(tmp_path, "begin") == Counter(["r0", "r1", "r2", "r3"]), "no run is done again"
    assert count(tmp_path, "after") == Counter(["r0", "r1", "r2"])
    assert Counter(event.id for event in events if event.kind == "ended") == Counter(["r0", "r1", "r2", "r3"])
    assert "as asked" in (tmp_path / "runs" / "r1" / "log").read_text()
