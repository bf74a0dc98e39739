"""A study on other machines: the same leases, records, retries and events as on this one.

A `Pool` submits tasks and says how they ended. Each does runs under their leases, over a store that all
machines see. What a task says is a hint: whether a run is done is read from its record. A task that dies
leaves a lease without a heartbeat, and the run is taken over once that is seen.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Protocol

from ablate.engine.launch import Event, tell_if_done
from ablate.engine.lease import holder, newest, taken
from ablate.engine.store import MISSING, Store
from ablate.engine.worker import Job, WorkerReport, record_missing

MOST_LOSSES = 20  # machines that one run may lose before that counts as its own failure


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended: the reports of its runs, or why there are none. `machine_lost` is true where that is
    no fault of the runs."""

    reports: tuple[WorkerReport, ...] = ()
    reason: str = ""
    machine_lost: bool = False


class Pool(Protocol):
    """Other machines, as far as this engine needs to know them."""

    together: int  # runs that one task does one after another

    def room(self, running: int) -> int:
        """How many more tasks to submit while so many are not at their end."""

    def submit(self, groups: list[list[Job]]) -> list[Any]:
        """A task for each group. Raises EngineError where the cluster refuses them."""

    def ended(self, task: Any) -> TaskEnd | None:
        """None while the task waits or runs."""

    def place(self, task: Any) -> str:
        """The name of a task for a person."""

    def cancel(self, task: Any) -> None:
        """Tell a task to stop; its run records that it is interrupted."""


@dataclass
class SubmittedTask:
    """A submitted task: its runs, and the number of the newest claim on each before it began."""

    handle: Any
    jobs: dict[str, Job]
    claims: dict[str, int]
    begun: set[str] = field(default_factory=set)


def launch_remote(
    jobs: Iterable[Job],
    pool: Pool,
    on_event: Callable[[Event], None],
    *,
    store: Store,
    retries: int = 1,
    check: float = 2.0,
    grace: float = 60.0,
) -> None:
    """Do all runs that have no outcome yet; return when each has one, or has failed too often.

    A run that crashed or was interrupted is tried again `retries` times; one whose machine was lost, without
    that counting. Runs that others hold are waited for. Tasks are asked every `check` seconds. On Ctrl-C or
    SIGTERM all tasks are told to stop, and get `grace` seconds. Raises EngineError where the cluster refuses
    the tasks.
    """
    RemoteEngine(jobs, pool, on_event, store, retries, check, grace).run()


class RemoteEngine:
    """Queue, tasks and retries. `launch_remote` says what the arguments mean."""

    def __init__(
        self,
        jobs: Iterable[Job],
        pool: Pool,
        on_event: Callable[[Event], None],
        store: Store,
        retries: int,
        check: float,
        grace: float,
    ):
        self.pool, self.on_event, self.store = pool, on_event, store
        self.retries, self.check, self.grace = retries, check, grace
        self.queue = list({job.id: job for job in jobs}.values())
        self.waiting: list[Job] = []
        self.tasks: list[SubmittedTask] = []
        self.attempts: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.ending = False

    def run(self) -> None:
        with stopped_by_sigterm():
            try:
                self.queue = [job for job in self.queue if not self.skipped(job)]
                while self.queue or self.tasks or self.waiting:
                    self.submit()
                    self.look()
                    self.look_again()
                    if self.queue or self.tasks or self.waiting:
                        time.sleep(self.check)
            except BaseException:
                self.stop()
                raise

    def skipped(self, job: Job) -> bool:
        return tell_if_done(job, self.store, self.on_event)

    def submit(self) -> None:
        """As many tasks as the pool has room for, in the order of the queue. A run that is tried again is
        done alone."""
        groups: list[list[Job]] = []
        room = self.pool.room(len(self.tasks))
        queue, self.queue = self.queue, []
        while queue and len(groups) < room:
            group: list[Job] = []
            while queue and len(group) < self.pool.together:
                job = queue.pop(0)
                if not self.skipped(job):
                    group.append(job)
            groups += [group] if group else []
        self.queue = queue + self.queue
        if groups:
            claims = [{job.id: newest(self.store.folder(job.id)) for job in group} for group in groups]
            handles = self.pool.submit(groups)
            for handle, group, before in zip(handles, groups, claims, strict=True):
                self.tasks.append(SubmittedTask(handle, {job.id: job for job in group}, before))

    def look(self) -> None:
        """What has begun and what has ended since the last look."""
        for task in list(self.tasks):
            end = self.pool.ended(task.handle)
            for job in list(task.jobs.values()):
                self.look_at(task, job)
            if end is not None:
                self.tasks.remove(task)
                reports = {report.id: report for report in end.reports}
                for job in task.jobs.values():
                    self.judge(task, job, reports.get(job.id), end)

    def look_at(self, task: SubmittedTask, job: Job) -> None:
        """Whether a run of a task has been begun, which its lease says, and has its outcome, as its record
        says, while the task may go on with the next."""
        folder = self.store.folder(job.id)
        if job.id not in task.begun and newest(folder) > task.claims[job.id]:
            task.begun.add(job.id)
            self.on_event(Event("begun", job.id, slot=holder(folder).partition(" (")[0]))
        if job.id in task.begun and (record := self.store.outcome(job.id, job.source_hash)) is not None:
            del task.jobs[job.id]
            seconds = record.speed.get("seconds", 0.0)
            self.tell(
                "ended",
                task,
                job,
                WorkerReport(job.id, record.status, record.reason, seconds, job.source_hash),
            )

    def judge(self, task: SubmittedTask, job: Job, report: WorkerReport | None, end: TaskEnd) -> None:
        """What the end of a task means for one of its runs."""
        if report is None:
            if self.skipped(job):
                return
            if self.ending and job.id not in task.begun:
                return  # cancelled before its turn: there is nothing to record
            if not end.reason:  # the task stopped before this run's turn
                self.queue.append(job)
                return
            lost = end.machine_lost and self.losses[job.id] < MOST_LOSSES
            self.losses[job.id] += end.machine_lost
            stopped = lost or self.ending
            report = record_missing(self.store, job, "interrupted" if stopped else "crashed", end.reason, 0.0)
            if lost and report.status in MISSING:
                self.queue.append(job)
                self.tell("again", task, job, report)
                return
        if report.status == "done":
            if not self.skipped(job):
                self.queue.append(job)
        elif report.status in ("elsewhere", "lost"):
            self.waiting.append(job)
            self.tell("elsewhere" if report.status == "elsewhere" else "lost", task, job, report)
        else:
            again = report.status in MISSING and not self.ending and self.attempts[job.id] < self.retries
            self.attempts[job.id] += 1
            if again:
                self.queue.append(job)
            self.tell("again" if again else "ended", task, job, report)

    def tell(self, kind: Any, task: SubmittedTask, job: Job, report: WorkerReport) -> None:
        told = {name: value for name, value in asdict(report).items() if name != "id"}
        told |= {"status": ""} if kind in ("elsewhere", "lost") else {}
        self.on_event(Event(kind, job.id, slot=self.pool.place(task.handle), **told))

    def look_again(self) -> None:
        """Are the runs that others had done, or free again?"""
        waiting, self.waiting = self.waiting, []
        for job in waiting:
            if self.skipped(job):
                continue
            try:
                held = taken(self.store.folder(job.id))
            except OSError:
                held = False  # whoever takes it will say why not
            (self.waiting if held else self.queue).append(job)

    def stop(self) -> None:
        """Tell all tasks to stop, and hear how their runs ended."""
        self.ending = True
        for task in self.tasks:
            self.pool.cancel(task.handle)
        end = time.monotonic() + self.grace
        while self.tasks and time.monotonic() < end:
            self.look()
            time.sleep(min(self.check, 0.5))


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, by SystemExit(143). In the main thread only."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
