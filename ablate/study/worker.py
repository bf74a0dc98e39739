"""What a worker does: one run after another, in a process that stays warm.

`perform` is a run under its lease; it is the same in the local engine, under SLURM and in `train.py`.
`python -m ablate.study.worker` is the process that `launch` starts. They talk in lines of JSON:

    to the worker      {"path": [...], "work": "module:function", "store": "runs", "grace": 30.0}
                       {"job": {...}, "sent": time}        until the pipe is closed
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.record import RunRecord, Status
from ablate.study.lease import BEAT, Lease, LeaseLost, beating, take
from ablate.study.store import Store

Payload = dict[str, Any]
Work = Callable[[Payload], None]

STOPPED = "told to stop, or the engine is gone"


@dataclass(frozen=True)
class Job:
    """One run to be done: plain JSON throughout.

    `payload` goes to the work function, with `outbox` added: the folder in which it must save its record
    (`RunRecord.save(Path(payload["outbox"]))`). Everything else it writes goes to `runs/<id>`. `code`, `spec`
    and `fingerprint` are what the record will say; they make the record of a run that could not write one.
    """

    id: str
    payload: Payload
    devices: int = 1
    code: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None  # an estimate: long runs begin first

    def missing(self, status: Literal["crashed", "interrupted"], reason: str) -> RunRecord:
        return RunRecord(
            id=self.id,
            status=status,
            reason=reason,
            code=self.code,
            spec=self.spec,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True)
class Report:
    """How a job ended here. `status` is the record's, or one of

    elsewhere: another live process holds it;  done: it had its outcome already;
    lost: another holder took over meanwhile, and this one's record was thrown away.
    """

    id: str
    status: Status | Literal["elsewhere", "done", "lost"]
    reason: str = ""
    seconds: float = 0.0
    code: str = ""  # of the record


class Stop(KeyboardInterrupt):
    """The run is to end now and say `interrupted`."""


def perform(
    store: Store,
    job: Job,
    work: Work,
    begun: Callable[[], None] = lambda: None,
    lost: Callable[[], None] = lambda: None,
    every: float = BEAT,
) -> Report:
    """Do one run under its lease, unless it is done or somebody else has it.

    What `work` raises becomes the record of a crashed run. `begun` is called just before the work function,
    `lost` from another thread when the lease is gone.
    """
    lease = take(store.folder(job.id))
    if lease is None:
        return Report(job.id, "elsewhere")
    began = time.monotonic()
    try:
        if store.finished(job.id, job.code):
            return Report(job.id, "done")
        with beating(lease, lost, every):
            begun()
            missing = _attempt(job, work, lease)
        if missing is not None:
            missing.save(lease.outbox)
        record = store.commit(lease)
        if missing is not None:  # an older outcome may have been kept
            record = missing
        return Report(job.id, record.status, record.reason, time.monotonic() - began, record.code)
    except (LeaseLost, FileNotFoundError):
        if lease.held():
            raise
        return Report(job.id, "lost", "another process has taken the run over", time.monotonic() - began)
    finally:
        lease.release()


def _attempt(job: Job, work: Work, lease: Lease) -> RunRecord | None:
    """Call the work function. Returns the record to be stored where it left none."""
    status: Literal["crashed", "interrupted"] = "crashed"
    try:
        work({**job.payload, "outbox": str(lease.outbox)})
        reason = "the work function returned and left no record in payload['outbox']"
    except (KeyboardInterrupt, SystemExit) as error:
        status, reason = "interrupted", str(error) or type(error).__name__
    except Exception as error:  # whatever it is, it is this run's alone
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    try:
        record = RunRecord.load(lease.outbox)
    except FileNotFoundError:
        return job.missing(status, reason)
    except ValueError as error:
        return job.missing("crashed", f"the work function left a broken record: {error}")
    if record.id != job.id:
        return job.missing("crashed", f"the work function left the record of {record.id}")
    return None


def record_missing(
    store: Store, job: Job, status: Literal["crashed", "interrupted"], reason: str, seconds: float
) -> Report:
    """Record what a dead process could not, under the lease that it left behind; or its outcome."""
    lease = take(store.folder(job.id))
    if lease is None:
        return Report(job.id, "elsewhere")
    try:
        record = store.find(job.id)
        if record is None or not store.finished(job.id, job.code):
            record = job.missing(status, reason)
            record.save(lease.outbox)
            store.commit(lease)
        return Report(job.id, record.status, record.reason, seconds, record.code)
    except LeaseLost:
        return Report(job.id, "lost", "another process has taken the run over", seconds)
    finally:
        lease.release()


def function(path: str) -> Work:
    """The work function named by `module:function`. Raises ImportError or AttributeError."""
    module, _, name = path.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    return work


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
            work = function(start["work"])
        except Exception:
            self.say(failed=traceback.format_exc())
            return
        store = Store(start["store"])
        self.say(ready=time.monotonic() - begin)
        threading.Thread(target=self.listen, daemon=True).start()
        while not self.stopping and (message := self.messages.get()) is not None:
            self.do(store, Job(**message["job"]), work, message["sent"])

    def do(self, store: Store, job: Job, work: Work, sent: float) -> None:
        def begun() -> None:
            # CLOCK_MONOTONIC is the same for all processes of a host.
            self.say(begun=job.id, late=time.monotonic() - sent)
            signal.signal(signal.SIGTERM, self.stop)  # the last run may have left its own

        def stoppable(payload: Payload) -> None:
            self.stoppable = True
            try:
                if self.stopping:
                    raise Stop(STOPPED)
                work(payload)
            finally:
                self.stoppable = False

        with _log(store.folder(job.id) / "log"):
            report = perform(store, job, stoppable, begun, self.terminate)
        self.say(report=asdict(report), memory=_memory())

    def listen(self) -> None:
        """Messages to the queue. At the end of them, stop what runs, and see to it that it does stop."""
        for line in self.lines:
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
def _log(file: Path) -> Iterator[None]:
    """What the run prints, and a traceback should it crash in C, goes to the end of `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as f:
        before = [os.dup(1), os.dup(2)]
        for n in (1, 2):
            os.dup2(f.fileno(), n)
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
