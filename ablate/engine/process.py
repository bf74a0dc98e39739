"""A worker process as the engine holds it: its pipes, its environment, its end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from ablate.engine.slots import Slot
from ablate.engine.worker import Job

THREADS = (
    "OMP",
    "MKL",
    "OPENBLAS",
    "NUMEXPR",
    "VECLIB_MAXIMUM",
    "RAYON",
)  # libraries that read X_NUM_THREADS


class Worker:
    """The engine's side of a worker process, bound to its slots."""

    def __init__(self, slots: tuple[Slot, ...], start: dict[str, Any]):
        self.slots = slots
        self.jobs: dict[str, Job] = {}  # under way
        self.tired = False  # to be replaced when they have ended
        self.ready = False
        self.stopping = False
        self.runs = 0
        self.begun = 0.0
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the process lives
        theirs, mine = os.pipe()
        self.receive, back = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ablate.engine.worker", str(theirs), str(back)],
            pass_fds=(theirs, back),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            env=environment(slots),
            start_new_session=True,  # Ctrl-C in the terminal goes to the engine alone
        )
        os.close(theirs)
        os.close(back)
        os.set_blocking(self.receive, False)
        self.pipe: IO[str] = os.fdopen(mine, "w", buffering=1)
        self.rest = b""
        self.send(start)

    def send(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it is dead, as the end of its messages will tell
            print(json.dumps(message), file=self.pipe)

    def begin(self, jobs: list[Job]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.runs += len(jobs)
        self.begun = time.monotonic()
        self.send({"jobs": [asdict(job) for job in jobs], "sent": self.begun})

    def messages(self) -> list[dict[str, Any]] | None:
        """What it said since last asked; None when it is dead."""
        try:
            piece = os.read(self.receive, 1 << 16)
        except BlockingIOError:
            return None if self.dead() else []
        if not piece:
            return None
        *lines, self.rest = (self.rest + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def dead(self) -> bool:
        """Whether it has ended. It is not reaped by asking, so that its number stays its own."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stop(self) -> None:
        """It ends what it does, says so, and exits."""
        if not self.stopping:
            self.stopping = True
            self.close()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.pipe.close()

    def kill(self) -> None:
        """It and the children of its run. Only before `reap`, when its number may be another's."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> str:
        """Wait for its end; how it ended, in words."""
        self.close()
        self.process.wait()
        os.close(self.receive)
        code = self.process.returncode
        if code >= 0:
            return f"the worker exited with status {code}"
        hint = "; out of memory in the machine, or kill -9" if -code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-code).name}{hint}"

    def last_words(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-2000:].decode(errors="replace").strip()


def environment(slots: tuple[Slot, ...]) -> dict[str, str]:
    """What must stand before the imports: the devices a worker sees and the threads it starts."""
    gpus = [slot.gpu for slot in slots if slot.gpu is not None]
    threads = {f"{name}_NUM_THREADS": str(slots[0].threads) for name in THREADS}
    return {
        **os.environ,
        **threads,
        "TORCHINDUCTOR_COMPILE_THREADS": str(slots[0].threads),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # nvidia-smi's numbers
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
