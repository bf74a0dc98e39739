"""The local engine: every slot busy until all runs have an outcome.

A slot is one CPU core or (a share of) one GPU. Each has a warm worker process, which is replaced when it
dies, when a run crashed in it, and when it has grown; what it was doing is the only run that suffers.
Several engines may work on one store: a run goes to whoever takes its lease.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ablate.engine.lease import taken
from ablate.engine.process import Worker
from ablate.engine.slots import Slot
from ablate.engine.store import MISSING, Store
from ablate.engine.worker import Job, WorkerReport, record_missing
from ablate.errors import AblateError


class EngineError(AblateError, RuntimeError):
    """No run can be done, with the reason."""


@dataclass(frozen=True)
class Event:
    """What happened to a run. Kinds:

    skipped  it had its outcome before its turn came   begun      a worker calls the work function
    ended    with `status`, `reason`, `seconds`        again      crashed or interrupted; to be tried again
    lost     taken over by another process, waited for elsewhere  another process has it; waited for

    `late` is the time in seconds between the engine's word to a worker and the call of the work function.
    `code` is that of the record; where it is not the job's, sources changed while the study ran.
    """

    kind: Literal["skipped", "begun", "ended", "again", "elsewhere", "lost"]
    id: str
    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    late: float = 0.0
    source_hash: str = ""
    slot: str = ""


def tell_if_done(job: Job, store: Store, on_event: Callable[[Event], None]) -> bool:
    """Whether a run has its outcome already, which is then told as skipped."""
    record = store.outcome(job.id, job.source_hash)
    if record is None:
        return False
    on_event(Event("skipped", job.id, record.status, record.reason, source_hash=record.source_hash))
    return True


def launch(
    jobs: Iterable[Job],
    slots: Sequence[Slot],
    work: str,
    on_event: Callable[[Event], None],
    *,
    store: Store,
    retries: int = 1,
    grace: float = 30.0,
    recycle: int = 200,
    memory: float | None = None,
    check: float = 1.0,
    together: str | None = None,
    most: int = 8,
    after: str | None = None,
) -> None:
    """Do all runs that have no outcome yet; return when each has one, or has failed too often.

    `work` is `module:function`, a function of a job's payload (see `Job`). A run that crashed or was
    interrupted is tried again `retries` times, and once more whenever this is called again. Runs leased by
    another live process are waited for at the end, looked at every `check` seconds.
    A worker is replaced after `recycle` runs, or above `memory` resident bytes (default: the machine's memory
    shared out over the slots). On Ctrl-C or SIGTERM runs get `grace` seconds to record that they are
    interrupted; a second Ctrl-C kills them at once.

    `together` is `module:function`, a function of the payloads of several jobs of one `group` and of what it
    calls with the id of each whose record is saved; up to `most` of them are done so in one slot, and no more
    than leaves runs for the other slots. A run that is tried again is done alone.

    `after` is `module:function`, a function of the folder and the payload of a run that finished alone,
    called in the same worker once the record is stored. What becomes of it is no outcome of the run.

    Raises ValueError for a job that needs more devices than there are, RuntimeError where workers cannot
    start, and KeyboardInterrupt or SystemExit(143) once everything has stopped on a signal.
    """
    start = {"work": work, "together": together, "after": after}
    Engine(list(jobs), slots, start, on_event, store, retries, grace, recycle, memory, check, most).run()


class Engine:
    """Queue, workers and signals. `launch` says what the arguments mean."""

    def __init__(
        self,
        jobs: list[Job],
        slots: Sequence[Slot],
        start: dict[str, Any],
        on_event: Callable[[Event], None],
        store: Store,
        retries: int,
        grace: float,
        recycle: int,
        memory: float | None,
        check: float,
        most: int,
    ):
        width = len({slot.gpu or slot.name for slot in slots})
        for job in jobs:
            if job.devices > width:
                raise ValueError(f"run {job.id} needs {job.devices} devices; the slots have {width}")
        # Wide runs first, while whole sets of devices are free; else as given: pairs are complete early.
        self.queue = sorted({job.id: job for job in jobs}.values(), key=lambda job: -job.devices)
        self.waiting: list[Job] = []
        self.slots, self.on_event, self.store = list(slots), on_event, store
        self.retries, self.grace, self.recycle, self.check = retries, grace, recycle, check
        self.memory = _memory() / len(slots) if memory is None else memory
        path = [os.path.abspath(p or ".") for p in sys.path]
        self.start = {**start, "path": path, "store": str(store.root.absolute()), "grace": grace}
        self.most = most if start["together"] else 1
        self.workers: list[Worker] = []
        self.attempts: Counter[str] = Counter()
        self.broken_starts = 0
        self.failure = ""  # why no run can be done
        self.ending = False
        self.signal: int | None = None
        self.looked = 0.0
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        with self.signals():
            try:
                self.skip()
                while not (self.signal or self.failure) and (self.queue or self.waiting or self.busy()):
                    self.fill()
                    self.listen(self.check if self.waiting else 1.0)
                    self.look_again()
            finally:
                self.stop()
        if self.failure:
            raise EngineError(self.failure)
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def skip(self) -> None:
        """Tell of what is done already, before the first worker starts."""
        todo = []
        for job in self.queue:
            todo += [] if self.skipped(job) else [job]
        self.queue = todo

    def skipped(self, job: Job) -> bool:
        return tell_if_done(job, self.store, self.on_event)

    def busy(self) -> list[Worker]:
        return [w for w in self.workers if w.jobs]

    def fill(self) -> None:
        """Give each free slot a run, in the order of the queue."""
        later: list[Job] = []
        queue, self.queue = self.queue, []
        while queue and (free := self.free()):
            job = queue.pop(0)
            slots = self.choose(job.devices, free)
            if slots is None:  # it waits for more devices; narrower ones may go on meanwhile
                later.append(job)
            elif not self.skipped(job):
                self.worker(slots).begin([job, *self.companions(job, queue)])
        self.queue = later + queue + self.queue

    def companions(self, job: Job, queue: list[Job]) -> list[Job]:
        """Runs taken out of the queue to be done together with this one: so many that every slot has its
        share of what is to be done."""
        share = min(self.most, -(-(1 + len(queue)) // len(self.slots)))
        if not job.group or self.attempts[job.id]:
            return []
        alike = [other for other in queue if other.group == job.group and not self.attempts[other.id]]
        for other in alike[: share - 1]:
            queue.remove(other)
        return alike[: share - 1]

    def free(self) -> list[Slot]:
        used = {slot for w in self.workers if w.jobs or w.stopping for slot in w.slots}
        return [slot for slot in self.slots if slot not in used]

    def choose(self, devices: int, free: list[Slot]) -> tuple[Slot, ...] | None:
        """Free slots on distinct devices, with a warm worker if there is one."""
        for worker in self.workers:
            if len(worker.slots) == devices and all(slot in free for slot in worker.slots):
                return worker.slots
        distinct: dict[str, Slot] = {}
        for slot in free:
            distinct.setdefault(slot.gpu or slot.name, slot)
        return tuple(distinct.values())[:devices] if len(distinct) >= devices else None

    def worker(self, slots: tuple[Slot, ...]) -> Worker:
        for worker in list(self.workers):
            if worker.slots == slots:
                return worker
            if set(worker.slots) & set(slots):  # idle, but bound to another set of devices
                self.retire(worker)
        worker = Worker(slots, self.start)
        self.workers.append(worker)
        self.selector.register(worker.receive, selectors.EVENT_READ, worker)
        return worker

    def retire(self, worker: Worker) -> None:
        """Let an idle worker go, and wait until its devices are free."""
        self.workers.remove(worker)
        self.selector.unregister(worker.receive)
        worker.stop()
        try:
            worker.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            worker.kill()
        worker.reap()

    def listen(self, timeout: float) -> None:
        talking = [key for key, _ in self.selector.select(timeout)]
        for key in talking:
            if key.data is None:
                os.read(key.fd, 1 << 10)  # a signal came
        # A dead worker's pipe stays open where children of its run, forked, still hold it.
        heard = {key.data for key in talking}
        for worker in [w for w in self.workers if w in heard or w.dead()]:
            messages = worker.messages()
            for message in messages or []:
                self.hear(worker, message)
            if messages is None:
                self.bury(worker)

    def hear(self, worker: Worker, message: dict[str, Any]) -> None:
        if "failed" in message:
            self.failure = f"workers cannot start: {message['failed']}"
        if "ready" in message:
            worker.ready = True
            self.broken_starts = 0
        elif "begun" in message:
            self.tell("begun", worker, message["begun"], late=message["late"])
        elif "report" in message:
            report = WorkerReport(**message["report"])
            self.judge(worker, worker.jobs.pop(report.id), report)
            # An exception may leave memory or a device in a bad state.
            worker.tired |= report.status == "crashed"
            worker.tired |= worker.runs >= self.recycle or message["memory"] > self.memory
            if worker.tired and not worker.jobs:
                worker.stop()

    def bury(self, worker: Worker) -> None:
        """A worker is dead. The runs that it had crashed, and their records say so."""
        self.workers.remove(worker)
        self.selector.unregister(worker.receive)
        worker.kill()
        how = worker.reap()
        if not worker.jobs:
            return
        if not worker.ready:
            self.broken_starts += 1
            if self.broken_starts == 5:
                self.failure = self.failure or f"workers cannot start: {how}\n{worker.last_words()}"
            self.queue[:0] = worker.jobs.values()
            return
        for job in worker.jobs.values():
            self.judge(worker, job, self.crash(worker, job, how))

    def crash(self, worker: Worker, job: Job, how: str) -> WorkerReport:
        seconds = time.monotonic() - worker.begun
        status: Literal["crashed", "interrupted"] = "interrupted" if self.ending else "crashed"
        reason = "stopped, and did not end in time" if self.ending else how
        try:
            return record_missing(self.store, job, status, reason, seconds)
        except OSError as error:
            self.failure = f"{self.store.root} cannot be written: {error.strerror}; run this again to go on"
            return WorkerReport(job.id, status, reason, seconds)

    def judge(self, worker: Worker, job: Job, report: WorkerReport) -> None:
        """What the end of a run means for the queue."""
        if report.status == "done":
            if not self.skipped(job):  # deleted in between
                self.queue.append(job)
        elif report.status in ("elsewhere", "lost"):
            self.waiting.append(job)
            self.tell(
                "elsewhere" if report.status == "elsewhere" else "lost", worker, job.id, reason=report.reason
            )
        else:
            again = report.status in MISSING and not self.ending and self.attempts[job.id] < self.retries
            self.attempts[job.id] += 1
            if again:
                self.queue.append(job)
            told: dict[str, Any] = {k: v for k, v in asdict(report).items() if k != "id"}
            self.tell("again" if again else "ended", worker, job.id, **told)

    def look_again(self) -> None:
        """At the end: are the runs that others had done, or free again?"""
        if self.queue or time.monotonic() - self.looked < self.check:
            return
        self.looked = time.monotonic()
        waiting, self.waiting = self.waiting, []
        for job in waiting:
            if self.skipped(job):
                continue
            try:
                held = taken(self.store.folder(job.id))
            except OSError:
                held = False  # whoever takes it will say why not
            if held:
                self.waiting.append(job)
            else:
                self.queue.append(job)

    def stop(self) -> None:
        """End all workers; those with a run get `grace` seconds to record that it is interrupted."""
        self.ending = True
        began = time.monotonic()
        for worker in self.workers:
            if worker.ready:
                worker.stop()
            else:
                worker.kill()  # still importing: no run has begun
        while self.workers:
            if time.monotonic() - began > self.grace:
                for worker in self.workers:
                    worker.kill()
            self.listen(0.2)
        self.selector.close()

    def tell(self, kind: Any, worker: Worker, id: str, **rest: Any) -> None:
        self.on_event(Event(kind, id, slot="+".join(slot.name for slot in worker.slots), **rest))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Hear Ctrl-C, SIGTERM and SIGHUP, unless ignored already (nohup). In the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def hear(number: int, frame: Any) -> None:
            if self.signal is not None:
                self.grace = 0.0
            self.signal = number

        bell, wake = os.pipe()  # a signal must end the wait for messages
        os.set_blocking(wake, False)
        self.selector.register(bell, selectors.EVENT_READ, None)
        before: dict[int, Any] = {}
        bells = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, hear)
        try:
            yield
        finally:
            for which, old in before.items():
                signal.signal(which, old)
            signal.set_wakeup_fd(bells)
            os.close(bell)
            os.close(wake)


def _memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
