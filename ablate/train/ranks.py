"""One run on several devices of a machine: a process for each, started here.

(Lightning would start the whole command again in each of them, with Hydra's multirun in it.) Under torchrun
the processes are there already, and nothing is started.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.record import RunRecord, Status
from ablate.train.monitor.interrupt import Interrupt

if TYPE_CHECKING:
    from ablate.train.fit import Run
    from ablate.train.request import RunRequest

NOTICE = 2.0  # seconds that the other ranks have to end by themselves, once one has failed


def is_started_rank() -> bool:
    """This process is one of several."""
    return "LOCAL_RANK" in os.environ


def is_main_rank() -> bool:
    """This process is the first, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def launch_ranks(run: "Run", stop: Interrupt) -> RunRecord:
    """Train in as many processes as there are devices; returns the record, and saves it.

    Raises RuntimeError where the run crashed.
    """
    from ablate.train.settings import devices

    with tempfile.TemporaryDirectory(prefix="ablate-ranks-") as temporary:
        folder = Path(temporary)
        request = run.request.model_copy(update={"counts": run.counts})  # `claim` stays the run's
        port = free_port()
        world = devices(run.settings)
        requests = [request.model_copy(update={"outbox": folder / str(n)}) for n in range(world)]
        processes = [start_rank(each, n, port) for n, each in enumerate(requests)]
        try:
            wait(processes, stop)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        record = verdict(run, folder, [process.returncode for process in processes], stop)
    run.save(record)
    if record.status == "crashed":
        raise RuntimeError(record.reason)
    return record


def start_rank(request: "RunRequest", rank: int, port: int) -> "subprocess.Popen[str]":
    """Start the process of one rank and send it the request."""
    place = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ablate.train.rank"],
        stdin=subprocess.PIPE,
        env={**os.environ, **place},
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"path": sys.path, "request": request.payload()}) + "\n")
    process.stdin.flush()
    return process


def wait(processes: "list[subprocess.Popen[str]]", stop: Interrupt) -> None:
    """Until all have ended, or one has failed and the others had time to notice."""
    told, failed_at = False, None
    while any(process.poll() is None for process in processes):
        if stop.requested and not told:
            told = True
            for process in processes:
                process.send_signal(signal.SIGTERM)
        if failed_at is None and any(process.poll() for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > NOTICE:
            return  # they wait for one that is gone
        time.sleep(0.05)


def verdict(run: "Run", folder: Path, codes: list[int], stop: Interrupt) -> RunRecord:
    """The record of the rank that fared worst: the others may only have been waiting for it. One that was
    told to stop while it still started has none."""
    records: list[RunRecord] = []
    for n, code in enumerate(codes):
        try:
            records.append(RunRecord.load(folder / str(n)))
        except (OSError, ValueError):
            status: Status = "interrupted" if stop.requested else "crashed"
            records.append(run.record(status, stop.reason or f"rank {n} {ended(code)}"))
    order = ("out_of_memory", "refused", "diverged", "crashed", "interrupted", "finished")
    return min(records, key=lambda record: order.index(record.status))


def ended(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
