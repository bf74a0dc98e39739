"""A real SLURM of one node: its own sbatch takes the jobs, and its own signals end them."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_node import MISSING, slurm_node
from test_launch import WORK, count, job, statuses, wait_for
from test_sweep import STUDY

from ablate.engine.launch import Event
from ablate.engine.slurm import launch_submitit
from ablate.engine.store import Store
from ablate.engine.worker import Job
from ablate.record import RunRecord

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: {', '.join(MISSING)}"),
]
ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "docs" / "clusters.md"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    with slurm_node(tmp_path_factory.mktemp("slurm")) as added:
        for name, value in added.items():
            patch.setenv(name, value)
        yield
    patch.undo()


def submit(folder: Path, jobs: list[Job], hear: Any = None, **options: Any) -> list[Event]:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if hear is not None:
            hear(event)

    parameters = {"timeout_min": 5, "slurm_partition": "gpu", "cpus_per_task": 1}
    launch_submitit(
        jobs,
        WORK,
        on_event,
        store=Store(folder / "runs"),
        executor="slurm",
        parameters=parameters | options.pop("parameters", {}),
        check=0.3,
        **options,
    )
    return events


def in_queue() -> list[str]:
    """The numbers of the jobs that wait or run."""
    asked = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def test_runs_go_through_sbatch_once(node, tmp_path):
    jobs = [*(job(tmp_path, n) for n in range(4)), job(tmp_path, 4, way="raise")]
    events = submit(tmp_path, jobs, together=2)
    assert Counter(e.kind for e in events) == {"begun": 5, "ended": 5}
    assert statuses(tmp_path) == {**{f"r{n}": "finished" for n in range(4)}, "r4": "crashed"}
    assert Counter(e.kind for e in submit(tmp_path, jobs[:4])) == {"skipped": 4}
    assert count(tmp_path, "begin") == {f"r{n}": 1 for n in range(5)}


def test_a_job_that_is_killed_is_seen_without_accounting_and_tried_again(node, tmp_path):
    jobs = [job(tmp_path, 0), job(tmp_path, 1, way="kill once"), job(tmp_path, 2, way="kill")]
    began = time.monotonic()
    events = submit(tmp_path, jobs, retries=1)
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished", "r2": "crashed"}
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 2, "r2": 2}
    assert Counter(e.kind for e in events if e.id == "r2")["again"] == 1
    assert "ended early" in Store(tmp_path / "runs").load("r2").reason
    assert time.monotonic() - began < 150


def once_begun(*words: str) -> Any:
    """A listener that runs a command of SLURM about the first job, a second after the first run has begun."""
    told = []

    def hear(event: Event) -> None:
        if event.kind == "begun" and not told:
            time.sleep(1.0)
            told.extend(in_queue())
            subprocess.run([*words, told[0]], check=True, timeout=60)

    return hear


@pytest.mark.parametrize("words", [("scancel", "--signal=USR2"), ("scontrol", "requeue")])
def test_a_job_that_is_warned_or_preempted_is_queued_again_and_goes_on(node, tmp_path, words):
    """The warning is that before the wall clock; requeueing is what SLURM's preemption does."""
    jobs = [job(tmp_path, n, seconds=6.0) for n in range(2)]
    events = submit(tmp_path, jobs, once_begun(*words), together=2, retries=0)
    assert statuses(tmp_path) == {"r0": "finished", "r1": "finished"}
    assert count(tmp_path, "begin") == {"r0": 2, "r1": 1}
    assert count(tmp_path, "end") == {"r0": 1, "r1": 1}
    assert Counter(e.kind for e in events)["ended"] == 2
    assert len(list((tmp_path / "runs" / ".submitit").glob("*_submitted.pkl"))) == 1  # one job, twice in line


def test_what_is_cancelled_stays_so(node, tmp_path):
    def interrupt(event: Event) -> None:
        if event.kind == "begun":
            raise KeyboardInterrupt

    jobs = [job(tmp_path, n, seconds=60.0) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        submit(tmp_path, jobs, interrupt, parallel=1)
    assert set(statuses(tmp_path).values()) == {"interrupted"}
    wait_for(lambda: not in_queue(), 30)
    time.sleep(5.0)
    assert not in_queue() and sum(count(tmp_path, "begin").values()) == 1


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a study of eight short runs."""
    (tmp_path / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    folder = tmp_path / "experiments" / "small"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.format(text=tmp_path / "a.txt"))
    return tmp_path


def trained(folder: Path) -> dict[str, str]:
    """The status of every run, by id."""
    records = (RunRecord.load(path.parent) for path in folder.glob("runs/*/record.json"))
    return {record.id: record.status for record in records}


def test_a_study_is_run_by_sbatch_and_looked_at(node, study):
    words = ["engine=slurm", "slurm.partition=gpu", "slurm.minutes=5", "slurm.cpus=1", "slurm.together=4"]
    command = [sys.executable, str(ROOT / "sweep.py"), "experiment=small", *words]
    done = subprocess.run(command, cwd=study, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(trained(study)) == 8 and set(trained(study).values()) == {"finished"}
    assert "Does position matter?" in (study / "experiments" / "small" / "report.md").read_text()
    (script,) = (study / "runs" / ".submitit").glob("*_submission.sh")
    asked = ["sbatch", "--test-only", str(script)]
    assert subprocess.run(asked, capture_output=True, text=True).returncode == 0
    assert "--array=0-1%2" in script.read_text() and "--signal=USR2@120" in script.read_text()
    status = [sys.executable, "-m", "ablate", "status", "experiment=small", "runs=runs"]
    said = subprocess.run(status, cwd=study, capture_output=True, text=True)
    assert said.returncode == 0 and "8/8 done" in said.stdout, said.stderr


def test_the_array_recipe_of_the_docs_is_taken_and_its_elements_share_the_study(node, study):
    (recipe,) = re.findall(r"```text\n(#!/bin/bash\n#SBATCH.*?)```", CLUSTERS.read_text(), re.DOTALL)
    whole = study / "whole.sbatch"
    whole.write_text(recipe)
    taken = subprocess.run(["sbatch", "--test-only", str(whole)], capture_output=True, text=True)
    assert taken.returncode == 0 and "to start at" in taken.stderr, taken.stderr
    mistaken = subprocess.run(["sbatch", "--test-only", "--signal=NO@SUCH", str(whole)], capture_output=True)
    assert mistaken.returncode != 0  # its parser refuses what is wrong

    here = recipe.replace("--array=0-7", "--array=0-1").replace("#SBATCH --gres=gpu:1\n", "")
    command = f"{sys.executable} {ROOT / 'sweep.py'} experiment=small slots=1"
    here, times = re.subn(r"python sweep.py .*", command, here)
    assert times == 1
    (study / "study.sbatch").write_text(here)
    asked = ["sbatch", "--wait", f"--chdir={study}", f"--output={study}/element-%a.log", "study.sbatch"]
    done = subprocess.run(asked, cwd=study, capture_output=True, text=True, timeout=500)
    logs = [path.read_text() for path in sorted(study.glob("element-*.log"))]
    assert done.returncode == 0, (done.stderr, logs)
    assert len(logs) == 2 and len(trained(study)) == 8 and set(trained(study).values()) == {"finished"}
    records = [RunRecord.load(path.parent) for path in study.glob("runs/*/record.json")]
    assert {record.heldout_reads for record in records} == {1}  # none was done, or scored, twice
