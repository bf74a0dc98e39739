"""What a worker does: one run after another, in a process that stays warm.

`perform_job` is a run under its lease; it is the same in the local engine, under SLURM and in `train.py`.
`perform_together` is that of several runs at once. `python -m ablate.engine.worker` is the process that
`launch` starts. They talk in lines of JSON:

    to the worker      {"path": [...], "work": "module:function", "together": "module:function" or null,
                        "after": "module:function" or null, "store": "runs", "grace": 30.0}
                       {"jobs": [{...}], "sent": time}     until the pipe is closed; several: together
    from the worker    {"ready": seconds} or {"failed": traceback}
                       {"begun": id, "late": seconds}      the work function is about to be called
                       {"report": {...}, "memory": bytes}
"""

import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.engine.lease import BEAT, Lease, LeaseLost, beating, holder, take
from ablate.engine.store import Store
from ablate.record import RunRecord, Status

Payload = dict[str, Any]
Work = Callable[[Payload], None]
After = Callable[[Path, Payload], None]  # of the folder of a finished run; its record is stored
Together = Callable[[list[Payload], Callable[[str], None]], None]  # calls with each id that has its record

STOPPED = "told to stop, or the engine is gone"


@dataclass(frozen=True)
class Job:
    """One run to be done: plain JSON throughout.

    `payload` goes to the work function, with two folders added: `outbox`, in which it must save its record
    (`RunRecord.save(Path(payload["outbox"]))`), and `claim`, which is gone when the lease is. Everything else
    it writes goes to `runs/<id>`. `source_hash`, `spec` and `fingerprint` are what the record will say; they
    make the record of a run that could not write one.
    """

    id: str
    payload: Payload
    devices: int = 1
    source_hash: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    group: str = ""  # runs of one group may be done together; empty: alone

    def missing(self, status: Literal["crashed", "interrupted"], reason: str) -> RunRecord:
        return RunRecord(
            id=self.id,
            status=status,
            reason=reason,
            source_hash=self.source_hash,
            spec=self.spec,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True)
class WorkerReport:
    """How a job ended here. `status` is the record's, or one of

    elsewhere: another live process holds it;  done: it had its outcome already;
    lost: another holder took over meanwhile, and this one's record was thrown away.
    """

    id: str
    status: Status | Literal["elsewhere", "done", "lost"]
    reason: str = ""
    seconds: float = 0.0
    source_hash: str = ""  # of the record


class Stop(KeyboardInterrupt):
    """The run is to end now and say `interrupted`."""


def perform_job(
    store: Store,
    job: Job,
    work: Work,
    begun: Callable[[], None] = lambda: None,
    lost: Callable[[], None] = lambda: None,
    every: float = BEAT,
) -> WorkerReport:
    """Do one run under its lease, unless it is done or somebody else has it.

    What `work` raises becomes the record of a crashed run. `begun` is called just before the work function,
    `lost` from another thread when the lease is gone.
    """
    reports: list[WorkerReport] = []
    perform_together(
        store, [job], lambda payloads, _: work(payloads[0]), reports.append, lambda _: begun(), lost, every
    )
    return reports[0]


def _left(job: Job, lease: Lease, status: Literal["crashed", "interrupted"], reason: str) -> RunRecord | None:
    """None where the work function left a record; else the one to be stored."""
    try:
        record = RunRecord.load(lease.outbox)
    except FileNotFoundError:
        return job.missing(status, reason)
    except ValueError as error:
        return job.missing("crashed", f"the work function left a broken record: {error}")
    if record.id != job.id:
        return job.missing("crashed", f"the work function left the record of {record.id}")
    return None


def perform_together(
    store: Store,
    jobs: list[Job],
    work: Together,
    ended: Callable[[WorkerReport], None],
    begun: Callable[[str], None] = lambda id: None,
    lost: Callable[[], None] = lambda: None,
    every: float = BEAT,
) -> None:
    """Do several runs at once, each under its lease. What `work` raises becomes the record of a crashed run
    for all that had not ended. The arguments are those of `hold_lease`."""
    with hold_lease(store, jobs, ended, begun, lost, every) as (payloads, settle):
        if payloads:
            work(payloads, settle)


@contextmanager
def hold_lease(
    store: Store,
    jobs: list[Job],
    ended: Callable[[WorkerReport], None],
    begun: Callable[[str], None] = lambda id: None,
    lost: Callable[[], None] = lambda: None,
    every: float = BEAT,
) -> Iterator[tuple[list[Payload], Callable[[str], None]]]:
    """Hold the leases of several runs while the block trains them.

    The block gets the payloads of the runs that are left to do, each with its outbox, and a function to call
    with the id of a run as soon as its record is in the outbox. Runs that are done, or that another process
    holds, are left out. `ended` hears how each run ended, once its record is stored; the seconds of a report
    are the run's share. `begun` is called with each id before the block, `lost` from another thread when a
    lease is gone. What the block raises is not raised again: it becomes the record of the runs that had not
    ended.
    """
    leases: dict[str, tuple[Job, Lease, ExitStack]] = {}
    for job in jobs:
        lease = take(store.folder(job.id))
        if lease is None:
            ended(WorkerReport(job.id, "elsewhere", f"waiting for {holder(store.folder(job.id))}"))
        elif store.finished(job.id, job.source_hash):
            lease.release()
            ended(WorkerReport(job.id, "done"))
        else:
            leases[job.id] = job, lease, ExitStack()
    began, size = time.monotonic(), len(leases)

    def settle(id: str, status: Literal["crashed", "interrupted"], reason: str) -> None:
        job, lease, beats = leases.pop(id)
        seconds = (time.monotonic() - began) / size
        beats.close()
        try:
            missing = _left(job, lease, status, reason)
            if missing is not None:
                missing.save(lease.outbox)
            mine = RunRecord.load(lease.outbox)
            store.commit(lease)
            ended(WorkerReport(id, mine.status, mine.reason, seconds, mine.source_hash))
        except (LeaseLost, FileNotFoundError):
            if lease.held():
                raise
            ended(WorkerReport(id, "lost", "another process has taken the run over", seconds))
        finally:
            lease.release()

    status: Literal["crashed", "interrupted"] = "crashed"
    no_record = reason = "the work function returned and left no record in payload['outbox']"
    payloads: list[Payload] = []
    try:
        for id, (_, lease, beats) in leases.items():
            beats.enter_context(beating(lease, lost, every))
            begun(id)
        places = {"outbox", "claim"}  # a successor removes the outbox: while it is there, the lease is held
        payloads = [
            {**job.payload, **dict.fromkeys(places, str(lease.outbox))} for job, lease, _ in leases.values()
        ]
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        status, reason = _outcome(error)
    try:
        yield payloads, lambda id: settle(id, "crashed", no_record)
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        status, reason = _outcome(error)
    for id in list(leases):
        settle(id, status, reason)


def _outcome(error: BaseException) -> tuple[Literal["crashed", "interrupted"], str]:
    """The status and the reason of a run that ended with an exception, whose traceback goes to its log."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted", str(error) or type(error).__name__
    traceback.print_exception(error)
    return "crashed", f"{type(error).__name__}: {error}"


def record_missing(
    store: Store, job: Job, status: Literal["crashed", "interrupted"], reason: str, seconds: float
) -> WorkerReport:
    """Record what a dead process could not, under the lease that it left behind; or its outcome."""
    lease = take(store.folder(job.id))
    if lease is None:
        return WorkerReport(job.id, "elsewhere")
    try:
        record = store.find(job.id)
        if record is None or not store.finished(job.id, job.source_hash):
            record = job.missing(status, reason)
            record.save(lease.outbox)
            store.commit(lease)
        return WorkerReport(job.id, record.status, record.reason, seconds, record.source_hash)
    except LeaseLost:
        return WorkerReport(job.id, "lost", "another process has taken the run over", seconds)
    finally:
        lease.release()


def function(path: str) -> Any:
    """The work function named by `module:function`. Raises ImportError or AttributeError."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class Process:
    """The worker's side of the pipes. A closed pipe means that the engine is gone, or wants no more."""

    def __init__(self, receive: int, send: int):
        self.lines = os.fdopen(receive, "r")
        self.pipe = os.fdopen(send, "w", buffering=1)
        for end in (receive, send):
            os.set_inheritable(end, False)  # or a child of a run would keep the pipe open
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.stoppable = False  # a run is under way
        self.stopping = False
        self.grace = 30.0

    def say(self, **message: Any) -> None:
        with suppress(BrokenPipeError):  # the engine is gone; the closed pipe ends this process
            print(json.dumps(message), file=self.pipe)

    def run(self) -> None:
        begin = time.monotonic()
        start = json.loads(self.lines.readline())
        self.grace = start["grace"]
        sys.path[:] = start["path"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine hears it, and decides
        signal.signal(signal.SIGTERM, self.stop)
        try:
            work: Work = function(start["work"])
            together: Together | None = function(start["together"]) if start["together"] else None
            self.after: After | None = function(start["after"]) if start["after"] else None
        except Exception:
            self.say(failed=traceback.format_exc())
            return
        store = Store(start["store"])
        self.say(ready=time.monotonic() - begin)
        threading.Thread(target=self.listen, daemon=True).start()
        while not self.stopping and (message := self.messages.get()) is not None:
            jobs = [Job(**job) for job in message["jobs"]]
            if len(jobs) == 1:
                self.do(store, jobs[0], work, message["sent"])
            else:
                assert together is not None
                self.do_together(store, jobs, together, message["sent"])

    def do(self, store: Store, job: Job, work: Work, sent: float) -> None:
        def stoppable(payload: Payload) -> None:
            with self.stops():
                work(payload)

        with logged_to(store.folder(job.id) / "log"):
            report = perform_job(store, job, stoppable, lambda: self.begun(job.id, sent), self.terminate)
            if self.after is not None and report.status == "finished" and not self.stopping:
                try:
                    self.after(store.folder(job.id), job.payload)
                except Exception:  # no outcome of the run, which has one
                    traceback.print_exc()
        self.report(report)

    def do_together(self, store: Store, jobs: list[Job], together: Together, sent: float) -> None:
        def stoppable(payloads: list[Payload], ended: Callable[[str], None]) -> None:
            def undisturbed(id: str) -> None:
                self.stoppable = False
                ended(id)
                self.stoppable = True
                if self.stopping:
                    self.stoppable = False
                    raise Stop(STOPPED)

            with self.stops():
                together(payloads, undisturbed)

        first, *others = (store.folder(job.id) / "log" for job in jobs)
        for file in others:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "a") as f:
                print(f"done together with others: see {first}", file=f)
        with logged_to(first):
            perform_together(
                store, jobs, stoppable, self.report, lambda id: self.begun(id, sent), self.terminate
            )

    def begun(self, id: str, sent: float) -> None:
        # CLOCK_MONOTONIC is the same for all processes of a host.
        self.say(begun=id, late=time.monotonic() - sent)
        signal.signal(signal.SIGTERM, self.stop)  # the last run may have left its own

    def report(self, report: WorkerReport) -> None:
        self.say(report=asdict(report), memory=_memory())

    @contextmanager
    def stops(self) -> Iterator[None]:
        """A signal raises Stop inside of the block."""
        self.stoppable = True
        try:
            if self.stopping:
                raise Stop(STOPPED)
            yield
        finally:
            self.stoppable = False

    def listen(self) -> None:
        """Messages to the queue. At the end of them, stop what runs, and see to it that it does stop."""
        for line in self.lines:
            with suppress(ValueError):  # half a line: the engine was killed while it wrote
                self.messages.put(json.loads(line))
        self.messages.put(None)
        self.terminate()
        time.sleep(self.grace)
        os.killpg(0, signal.SIGKILL)  # this process leads its group: children of the run go too

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self, number: int, frame: Any) -> None:
        self.stopping = True
        self.messages.put(None)  # wakes it where it waits for work
        if self.stoppable:
            self.stoppable = False  # once: a second signal must not disturb the writing of the record
            raise Stop(STOPPED)


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """What the run prints, and a traceback should it crash in C, goes to the end of `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as f:
        before = [os.dup(1), os.dup(2)]
        for n in (1, 2):
            os.dup2(f.fileno(), n)
        faulthandler.disable()  # it does not know that Lightning took its signals, at the end of a run
        faulthandler.enable(file=2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for n, old in zip((1, 2), before, strict=True):
                os.dup2(old, n)
                os.close(old)


def _memory() -> int:
    """Resident bytes of this process; 0 where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    Process(int(sys.argv[1]), int(sys.argv[2])).run()
