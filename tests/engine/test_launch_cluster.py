"""The same runs through submitit, with its local executor."""

import os
import signal
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from test_launch import WORK, count, job, statuses

from ablate.engine.launch import Event
from ablate.engine.shift import Shift, do_all
from ablate.engine.slurm import launch_submitit
from ablate.engine.store import Store
from ablate.engine.worker import Job

pytest.importorskip("submitit")


def submit(folder: Path, jobs: list[Job]) -> list[Event]:
    events: list[Event] = []
    launch_submitit(
        jobs,
        WORK,
        events.append,
        store=Store(folder / "runs"),
        executor="local",
        parallel=2,
        together=2,
        parameters={"timeout_min": 5},
        check=0.05,
    )
    return events


def test_runs_go_through_submitit_once(tmp_path: Path) -> None:
    jobs = [*(job(tmp_path, n) for n in range(2)), job(tmp_path, 2, way="raise")]
    assert Counter(e.kind for e in submit(tmp_path, jobs)) == {"begun": 3, "ended": 3}
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished", "r2": "crashed"}
    assert Counter(e.kind for e in submit(tmp_path, jobs[:2])) == {"skipped": 2}
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 1, "r2": 1}


@pytest.mark.slow  # submitit waits 15 s for the result of a process that was killed
def test_a_killed_cluster_job_is_recorded_as_crashed(tmp_path: Path) -> None:
    jobs = [job(tmp_path, 0), job(tmp_path, 1, way="kill")]
    events = submit(tmp_path, jobs)
    assert {e.id: e.status for e in events if e.kind == "ended"} == {"r0": "finished", "r1": "crashed"}
    assert statuses(tmp_path) == {"r0": "finished", "r1": "crashed"}
    assert "ended early" in Store(tmp_path / "runs").load("r1").reason


@pytest.mark.slow
def test_a_cluster_job_stops_before_its_wall_clock_and_queues_itself_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n, seconds=12.0) for n in range(3)]
    events: list[Event] = []
    launch_submitit(
        jobs,
        WORK,
        events.append,
        store=Store(tmp_path / "runs"),
        executor="local",
        parallel=1,
        together=3,
        parameters={"timeout_min": 1},  # submitit warns 30 s before
        check=0.1,
    )
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished", "r2": "finished"}
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 1, "r2": 2}
    assert count(tmp_path, "end") == {"r0": 1, "r1": 1, "r2": 1}
    assert len(list((tmp_path / "runs" / ".submitit").glob("*_submitted.pkl"))) == 1  # one job, twice in line


def test_a_stopped_shift_leaves_the_rest_undone(tmp_path: Path) -> None:
    shift = Shift(str(tmp_path / "runs"), WORK, None, [])
    with shift.heeding(signal.SIGUSR1):
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        reports = list(do_all([asdict(job(tmp_path, n, seconds=5.0)) for n in range(2)], shift))
    assert [(report.id, report.status) for report in reports] == [("r0", "interrupted")]
    assert statuses(tmp_path) == {"r0": "interrupted"}
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
