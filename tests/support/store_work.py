"""Work functions for the tests of the engine. `runs/<id>` is the outbox's grandparent."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablate.record import RunRecord


def note(log: str, what: str, id: str) -> None:
    """One line to an append-only log, in one write."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{time.monotonic_ns()} {what} {id} {os.getpid()}\n".encode())
    os.close(handle)


def record(payload: dict[str, Any], status: Any = "finished", **rest: Any) -> None:
    made = RunRecord(
        id=payload["id"],
        status=status,
        source_hash=payload["source_hash"],
        spec={"seed": payload["seed"]},
        fingerprint={},
        metrics={"loss": payload["seed"] * 0.5},
        **rest,
    )
    made.save(Path(payload["outbox"]))


def work(payload: dict[str, Any]) -> None:
    """Sleep, or fail in the way that `payload` asks for, then leave a record."""
    note(payload["log"], "begin", payload["id"])
    once = Path(payload["log"] + ".once." + payload["id"])
    way = payload.get("way", "")
    if way.endswith("once"):
        way = "" if once.exists() else way.removesuffix(" once")
        once.touch()
    if way == "raise":
        raise ArithmeticError("as asked")
    if way == "fork kill" and os.fork() == 0:
        time.sleep(30)  # a child, as a data loader's, that outlives the worker and holds its pipes
        os._exit(0)
    if way in ("kill", "fork kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "segfault":
        import faulthandler

        faulthandler._sigsegv()  # type: ignore[attr-defined]
    if way == "signals":  # what Lightning leaves at the end of a run
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.getsignal(number))
    if way == "silent":
        return
    print("hello from", payload["id"])
    end = time.monotonic() + payload["seconds"]
    while time.monotonic() < end:
        if not payload.get("busy"):
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
    record(
        payload, "diverged" if way == "diverged" else "finished", kernel=os.environ.get("OMP_NUM_THREADS", "")
    )
    note(payload["log"], "end", payload["id"])


def killed(*given: Any) -> None:
    """Gone as a process is that the kernel kills for its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def together(payloads: list[dict[str, Any]], ended: Callable[[str], None]) -> None:
    """One after the other in this process, and a note of how many there were."""
    for payload in payloads:
        note(payload["log"], f"together-{len(payloads)}", payload["id"])
        work(payload)
        ended(payload["id"])


def after(folder: Path, payload: dict[str, Any]) -> None:
    """A note beside the record, which is stored; or a failure as `payload` asks for."""
    assert RunRecord.load(folder).status == "finished"
    note(payload["log"], "after", payload["id"])
    if payload.get("after") == "raise":
        raise ArithmeticError("as asked")
    if payload.get("after") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
