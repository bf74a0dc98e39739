"""The same runs through submitit, with its local executor."""

from collections import Counter
from pathlib import Path

import pytest
from test_launch import WORK, count, job, statuses

from ablate.engine.launch import Event
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
    assert Counter(e.kind for e in submit(tmp_path, jobs)) == {"ended": 3}
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished", "r2": "crashed"}
    assert Counter(e.kind for e in submit(tmp_path, jobs[:2])) == {"skipped": 2}
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 1, "r2": 1}


@pytest.mark.slow  # submitit waits 15 s for the result of a process that was killed
def test_a_killed_cluster_job_is_recorded_as_crashed(tmp_path: Path) -> None:
    jobs = [job(tmp_path, 0), job(tmp_path, 1, way="kill")]
    events = submit(tmp_path, jobs)
    assert {e.id: e.status for e in events} == {"r0": "finished", "r1": "crashed"}
    assert statuses(tmp_path) == {"r0": "finished", "r1": "crashed"}
    assert "ended early" in Store(tmp_path / "runs").load("r1").reason
