"""The same runs under SLURM: submitit starts the processes, leases and records are the store's.

A run that a preempted or killed cluster job leaves behind has a dead lease, and is done by whoever comes
next. submitit is an optional extra (`pip install -e '.[slurm]'`) and is imported when asked for.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ablate.engine.launch import Event
from ablate.engine.lease import taken
from ablate.engine.store import Store
from ablate.engine.worker import Job, Report, function, perform, record_missing


def launch_submitit(
    jobs: Iterable[Job],
    work: str,
    on_event: Callable[[Event], None],
    *,
    store: Store,
    executor: Literal["slurm", "local"] = "slurm",
    parallel: int = 8,
    together: int = 1,
    parameters: dict[str, Any] | None = None,
    check: float = 10.0,
) -> None:
    """Do all runs that have no outcome yet, `together` in one cluster job, `parallel` of those at a time.

    `store` must be on a file system that all hosts see. `parameters` are submitit's (`slurm_partition`,
    `timeout_min`, `gpus_per_node`, ...). Failures are not tried again here: launch again for that.
    Raises ImportError, with the fix, where submitit is missing.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("SLURM needs submitit: pip install -e '.[slurm]' (in the repository)") from error

    folder = store.root.absolute() / ".submitit"
    starter = submitit.AutoExecutor(folder=folder, cluster=executor)
    if executor == "slurm":
        starter.update_parameters(slurm_array_parallelism=parallel)
    starter.update_parameters(**(parameters or {}))

    todo: list[Job] = []
    for job in jobs:
        if not _skipped(store, job, on_event):
            todo.append(job)
    groups = [todo[n : n + together] for n in range(0, len(todo), together)]
    # SLURM limits an array by itself; the local executor starts all that it is given.
    wave = len(groups) if executor == "slurm" else parallel
    waiting: list[Job] = []
    running: dict[Any, list[Job]] = {}
    while groups or running:
        begin, groups = groups[: wave - len(running)], groups[wave - len(running) :]
        if begin:
            started = starter.map_array(
                perform_all,
                [[asdict(job) for job in group] for group in begin],
                [str(store.root.absolute())] * len(begin),
                [work] * len(begin),
                [sys.path] * len(begin),
            )
            running.update(zip(started, begin, strict=True))
        time.sleep(check if running else 0)
        # submitit asks SLURM about a job at most once a minute, unless forced; locally asking costs nothing.
        for task in [task for task in running if task.done(force_check=executor == "local")]:
            for job in running.pop(task):
                waiting += _tell(store, job, task, on_event)
    while waiting:
        waiting = [job for job in waiting if not _settled(store, job, on_event)]
        time.sleep(check if waiting else 0)


def perform_all(jobs: list[dict[str, Any]], root: str, work: str, path: list[str]) -> list[dict[str, Any]]:
    """In the cluster job: one run after another. Returns their reports."""
    sys.path[:] = path
    store, call = Store(Path(root)), function(work)
    return [asdict(perform(store, Job(**job), call)) for job in jobs]


def _tell(store: Store, job: Job, task: Any, on_event: Callable[[Event], None]) -> list[Job]:
    """Say how a run ended. Returns it where another process has it."""
    error = task.exception()
    if error is None:
        report = next(r for r in (Report(**r) for r in task.result()) if r.id == job.id)
    else:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        report = record_missing(store, job, "crashed", f"cluster job {task.job_id} ended early: {last}", 0.0)
    if report.status in ("elsewhere", "lost"):
        on_event(Event("elsewhere" if report.status == "elsewhere" else "lost", job.id, slot=task.job_id))
        return [job]
    if report.status == "done":
        _skipped(store, job, on_event)
    else:
        told = {k: v for k, v in asdict(report).items() if k != "id"}
        on_event(Event("ended", job.id, slot=task.job_id, **told))
    return []


def _skipped(store: Store, job: Job, on_event: Callable[[Event], None]) -> bool:
    if not store.finished(job.id, job.source_hash):
        return False
    record = store.load(job.id)
    on_event(Event("skipped", job.id, record.status, record.reason, source_hash=record.source_hash))
    return True


def _settled(store: Store, job: Job, on_event: Callable[[Event], None]) -> bool:
    """Whether a run that another process had has come to its end there."""
    if _skipped(store, job, on_event):
        return True
    if taken(store.folder(job.id)):
        return False
    on_event(Event("ended", job.id, "interrupted", "the process that had it ended without an outcome"))
    return True
