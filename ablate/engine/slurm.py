"""The same runs under SLURM: submitit starts the processes, leases and records are the store's.

A cluster job stops before its wall clock, and when it is preempted, at the edge of a training step. It then
queues itself again with the runs that it has not done. submitit is an optional extra
(`pip install -e '.[slurm]'`) and is imported when asked for.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Literal

from ablate.engine.launch import EngineError, Event
from ablate.engine.remote import TaskEnd, launch_remote
from ablate.engine.shift import Shift, do_all
from ablate.engine.store import Store
from ablate.engine.worker import Job, WorkerReport

REQUEUES = 1000  # of one cluster job: each has made progress, so there is no reason for a bound
ASKED_AGAIN = 15.0  # seconds between two questions to squeue
RESULT_WAIT = 20.0  # seconds in which what a job has written becomes visible on another host

# A job in any other state waits, runs, or is to run again. SLURM forgets a job some minutes after its end.
MACHINE_LOST = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}
ENDED = MACHINE_LOST | {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
GONE = "no longer in the queue"


class ClusterJob:
    """What a cluster job does: one run after another. submitit pickles it, and calls `checkpoint` where the
    job is to be queued again."""

    def __init__(self, jobs: list[dict[str, Any]], root: str, work: str, after: str | None, path: list[str]):
        self.jobs, self.root, self.work, self.after, self.path = jobs, root, work, after, path
        self.place = os.getcwd()

    def __call__(self) -> list[dict[str, Any]]:
        """The reports of the runs as plain JSON. A warning of the cluster stops the run under way; submitit's
        own handler then queues the job again. SIGTERM stops it too, and leaves the rest to SLURM: a cancelled
        job must not come back."""
        shift = Shift(self.root, self.work, self.after, self.path, self.place)
        warning = _warning()
        with shift.heeding(warning):
            reports = [asdict(report) for report in do_all(self.jobs, shift)]
        if shift.warned:
            os.kill(os.getpid(), warning)  # to submitit's handler, which does not return
        return reports

    def checkpoint(self) -> Any:
        """The same job again: what is done is skipped there, what was stopped goes on from its checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _warning() -> int:
    """The signal by which submitit has itself warned."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return int(signal.Signals[f"SIG{name.removeprefix('SIG')}"])


class Queue:
    """The states of this user's jobs, as squeue tells them. submitit asks sacct, which knows nothing where a
    cluster keeps no accounts, and asks it every ten minutes."""

    def __init__(self) -> None:
        self.states: dict[str, str] | None = None  # None: not known
        self.asked = -math.inf

    def state(self, id: str) -> str | None:
        """The state of a job, GONE where SLURM does not list it any more, None where squeue fails."""
        if time.monotonic() - self.asked > ASKED_AGAIN:
            self.asked = time.monotonic()
            self.states = self.hear()
        return None if self.states is None else self.states.get(id, GONE)

    def hear(self) -> dict[str, str] | None:
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", "--user"]
        try:
            heard = subprocess.run([*command, str(os.getuid())], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = heard.stdout.split()
        return None if heard.returncode else dict(line.split("|", 1) for line in lines if "|" in line)

    def changed(self) -> None:
        """Jobs were submitted: what was heard before says nothing of them."""
        self.asked = -math.inf


class SlurmPool:
    """Cluster jobs through submitit. `parallel` of them run at a time, `together` runs are done in each.

    `parameters` are submitit's: `slurm_partition`, `timeout_min`, `gpus_per_node`, ... The local executor
    starts the same jobs on this machine. Raises ImportError, with the fix, where submitit is missing.
    """

    def __init__(
        self,
        store: Store,
        work: str,
        *,
        after: str | None = None,
        executor: Literal["slurm", "local"] = "slurm",
        parallel: int = 8,
        together: int = 1,
        parameters: dict[str, Any] | None = None,
    ):
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                "SLURM needs submitit: pip install -e '.[slurm]' (in the repository)"
            ) from error
        self.together, self.parallel, self.executor = together, parallel, executor
        self.root = str(store.root.absolute())
        self.work, self.after = work, after
        self.queue = Queue()
        self.gone: dict[str, float] = {}  # when a job without a result was first seen to have ended
        self.cancelled: set[str] = set()
        limits: dict[str, Any] = {f"{executor}_max_num_timeout": REQUEUES}
        try:
            self.starter = submitit.AutoExecutor(
                folder=store.root.absolute() / ".submitit", cluster=executor, **limits
            )
            if executor == "slurm":
                self.starter.update_parameters(slurm_array_parallelism=parallel)
            self.starter.update_parameters(**(parameters or {}))
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
            raise EngineError(f"SLURM: {error}") from error

    def room(self, running: int) -> int:
        """SLURM limits an array by itself, and its queue is the place to wait; the local executor starts all
        that it is given."""
        return 10_000 if self.executor == "slurm" else self.parallel - running

    def submit(self, groups: list[list[Job]]) -> list[Any]:
        path = [os.path.abspath(place or ".") for place in sys.path]
        calls = [
            ClusterJob([asdict(job) for job in group], self.root, self.work, self.after, path)
            for group in groups
        ]
        try:
            with self.starter.batch():
                tasks = [self.starter.submit(call) for call in calls]
        except Exception as error:
            raise EngineError(f"SLURM takes no jobs: {str(error).strip() or type(error).__name__}") from error
        self.queue.changed()
        return tasks

    def ended(self, task: Any) -> TaskEnd | None:
        if self.executor == "slurm" and not task.paths.result_pickle.exists():
            return self.ended_without_result(task)
        if not task.done(force_check=True):
            return None
        error = task.exception()
        if error is not None:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            return TaskEnd(reason=f"cluster job {task.job_id} ended early: {last}")
        reports = tuple(WorkerReport(**report) for report in task.result())
        told_to_stop = any(report.status == "interrupted" for report in reports)
        if self.executor == "slurm" and told_to_stop and task.job_id not in self.cancelled:
            state = self.queue.state(task.job_id)
            if state is None or state not in (*ENDED, GONE):
                return None  # SLURM ends it, or has queued it again: then it goes on where it was
            if state in MACHINE_LOST:
                return TaskEnd(reason=f"cluster job {task.job_id}: {state}", machine_lost=True)
        return TaskEnd(reports)

    def ended_without_result(self, task: Any) -> TaskEnd | None:
        """What became of a job that has written nothing; None while it waits or runs, and for a while after
        its end, in which its result may come to be seen on this host."""
        state = self.queue.state(task.job_id)
        if state is None or state not in (*ENDED, GONE):
            self.gone.pop(task.job_id, None)
            return None
        since = self.gone.setdefault(task.job_id, time.monotonic())
        if time.monotonic() - since < RESULT_WAIT:
            return None
        reason = f"cluster job {task.job_id} ended early: {state} ({task.paths.stderr})"
        return TaskEnd(reason=reason, machine_lost=state in MACHINE_LOST)

    def place(self, task: Any) -> str:
        return f"job {task.job_id}"

    def cancel(self, task: Any) -> None:
        self.cancelled.add(task.job_id)
        task.cancel(check=False)


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
    retries: int = 0,
    after: str | None = None,
) -> None:
    """Do all runs that have no outcome yet, `together` in one cluster job, `parallel` of those at a time.

    `store` must be on a file system that all hosts see. The other arguments are those of `SlurmPool` and
    `launch_remote`. Raises ImportError where submitit is missing, EngineError where SLURM takes no jobs.
    """
    pool = SlurmPool(
        store,
        work,
        after=after,
        executor=executor,
        parallel=parallel,
        together=together,
        parameters=parameters,
    )
    launch_remote(jobs, pool, on_event, store=store, retries=retries, check=check)
