"""Runs one after another in a process that others started: a cluster job of SLURM, a worker of Ray."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ablate.engine.store import Store
from ablate.engine.worker import (
    After,
    Job,
    Payload,
    Stop,
    Work,
    WorkerReport,
    function,
    logged_to,
    perform_job,
)

TOLD_TO_STOP = "told to stop by the cluster"


class Shift:
    """Does runs until it is told to stop. `stopping` is true from then on.

    `work` and `after` are `module:function`, as for `ablate.engine.launch`; `path` is where their modules are
    found, `place` the working folder. `warned`: by a cluster's warning, not by SIGTERM alone. Raises
    ImportError or AttributeError where they are not.
    """

    def __init__(self, root: str, work: str, after: str | None, path: list[str], place: str | None = None):
        sys.path[:] = [*path, *(place for place in sys.path if place not in path)]
        if place is not None:
            os.chdir(place)  # relative names of texts and parts are those of the engine's own folder
        self.store = Store(Path(root))
        self.work: Work = function(work)
        self.after: After | None = function(after) if after else None
        self.stopping = self.warned = False
        self.stoppable = False  # a run is under way

    def do(self, job: Job) -> WorkerReport:
        """Do one run under its lease; what it prints goes to its log."""

        def stoppable_work(payload: Payload) -> None:
            self.stoppable = True
            try:
                if self.stopping:
                    raise Stop(TOLD_TO_STOP)
                self.work(payload)
            finally:
                self.stoppable = False

        folder = self.store.folder(job.id)
        with logged_to(folder / "log"):
            report = perform_job(
                self.store, job, stoppable_work, lost=lambda: os.kill(os.getpid(), signal.SIGTERM)
            )
            if self.after is not None and report.status == "finished" and not self.stopping:
                try:
                    self.after(folder, job.payload)
                except Exception:  # no outcome of the run, which has one
                    traceback.print_exc()
        return report

    @contextmanager
    def heeding(self, *warnings: int) -> Iterator[None]:
        """Stop the run under way at SIGTERM, and at the signals by which a cluster warns. What stood before
        stands again afterwards. In the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *warnings)}
        signal.signal(signal.SIGTERM, self.stop)
        for number in warnings:
            signal.signal(number, self.warn)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def warn(self, number: int, frame: FrameType | None) -> None:
        """Training listens to SIGTERM at the edge of a step, where it has something whole to keep."""
        self.stopping = self.warned = True
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        if self.stoppable:
            self.stoppable = False  # once: a second signal must not disturb the writing of the record
            raise Stop(TOLD_TO_STOP)


def do_all(jobs: list[dict[str, Any]], shift: Shift) -> Iterator[WorkerReport]:
    """The reports of jobs as plain JSON, one after another, until the shift is told to stop."""
    for job in jobs:
        if shift.stopping:
            return
        yield shift.do(Job(**job))
