"""A lease on a run: the right to do it, held by one process at a time, on any host that sees the store.

    runs/<id>/lease/1                    the first claim,
    runs/<id>/lease/2                    the one that took over from it: the highest number counts;
    runs/<id>/lease/2-<token>.out/       the outbox of claim 2: record, weights and curve are there before
                                         `Store.commit` moves them into place

**One winner.** A claim is a file that link(2) makes, whole and only if its name is free; the file system
grants a name once, over NFS too. To take over from a dead claim n is to make claim n + 1. All
contenders that saw n dead compete for that one name, and since a claim is never removed, a contender with
an old view of the folder asks for a name that is taken, and loses. A released claim keeps its file as well,
marked as released.

**Who is dead.** On the same host: the process is gone, or its number now belongs to a process with another
start time. That is known at once; a process that is merely suspended there is alive. From elsewhere (another
host, or another container): the heartbeat, the file's time of change, is older than `limit`, or further in
the future than that, which no clock of theirs has written; both times compared are the file server's.

**What is damaged.** A claim that cannot be read is an empty one, judged by its heartbeat. A name that is no
number says nothing.

**Who holds it.** Each claim has a token drawn by chance. Where a run's folder was deleted and begun anew, the
numbers begin anew too; the holder from before sees another's token under its number, and has lost.

**No overwriting.** A holder may be suspended, be declared dead by another host, and wake up. It does

    (1) write the record into its outbox   (2) see that there is no higher claim   (3) rename it into place,

where (3) moves the files beside the record first, and whoever takes over does

    (a) make a higher claim   (b) remove the records in all lower outboxes   (c) look for a record   (d) work.

If (2) came before (a), so did (1): then (b) removes the record, and (3) fails because its source is gone;
or (3) came before (b), and (c) sees the record. If (2) came after (a), the holder sees that it has lost.
So no holder replaces the record of a later one, whenever it wakes up.
"""

import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.errors import AblateError
from ablate.record import UMASK, atomic

BEAT = 5.0  # seconds between heartbeats
DEAD = -1
NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # of a claim: its name
MOST_BYTES = 1 << 16  # of a claim that is read; one of ours has 200
MOST_PID = 2**31 - 1
LIMIT = (
    120.0  # seconds without one after which a holder on another host is dead; NFS may show times 60 s late
)


class LeaseLost(AblateError):
    """Another holder has taken the run over; what this one made must not be stored."""


@dataclass(frozen=True)
class Lease:
    """A claim that was won. `folder` is the run's, `token` the claim's own."""

    folder: Path
    number: int
    token: str

    @property
    def file(self) -> Path:
        return self.folder / "lease" / str(self.number)

    @property
    def outbox(self) -> Path:
        """Where the record is saved; `Store.commit` moves it from here."""
        return self.folder / "lease" / f"{self.number}-{self.token}.out"

    def held(self) -> bool:
        return newest(self.folder) == self.number and self._mine()

    def _mine(self) -> bool:
        """Whether the claim of this number is still this one."""
        try:
            return _read(self.file)[0].get("token") == self.token
        except FileNotFoundError:
            return False

    def beat(self) -> None:
        os.utime(self.file)

    def release(self) -> None:
        """Give the run back. Harmless where the lease is lost: a lower claim counts for nothing."""
        shutil.rmtree(self.outbox, ignore_errors=True)
        if not self._mine():  # the run's folder was deleted
            return
        with suppress(FileNotFoundError), atomic(self.file) as f:
            f.write(json.dumps({"released": True}).encode())


def take(folder: Path, limit: float = LIMIT) -> Lease | None:
    """Claim the run in `folder`; None where a live process holds it, or another contender was faster."""
    home = folder / "lease"
    home.mkdir(parents=True, exist_ok=True)
    last = newest(folder)
    if last and _alive(home / str(last), limit):
        return None
    claim = _myself()
    lease = Lease(folder, last + 1, claim["token"])
    if not _make(lease.file, claim):
        return None
    for outbox in home.glob("*.out"):
        number = NUMBER.match(outbox.name)
        if number and int(number[0]) <= lease.number:
            _clear(outbox)
    lease.outbox.mkdir()
    return lease


def _clear(outbox: Path) -> None:
    """Remove a lost outbox, its record before the rest."""
    with suppress(FileNotFoundError, NotADirectoryError):
        (outbox / "record.json").unlink()
    shutil.rmtree(outbox, ignore_errors=True)


def taken(folder: Path, limit: float = LIMIT) -> bool:
    """Whether a live process holds the run in `folder`."""
    last = newest(folder)
    return last > 0 and _alive(folder / "lease" / str(last), limit)


def holder(folder: Path) -> str:
    """Who holds the run in `folder`, in words for a person who waits: host, process and the claim's file."""
    file = folder / "lease" / str(newest(folder))
    try:
        claim = _read(file)[0]
    except FileNotFoundError:
        return "nobody any more"
    where, process = claim.get("where"), _process(claim)
    host = where[0] if isinstance(where, list) and where else None
    host = host if isinstance(host, str) and host.isprintable() else "an unknown host"
    return f"{host}, process {process[0] if process else 'unknown'} ({file})"


def newest(folder: Path) -> int:
    """The highest claim on the run in `folder`; 0 where there is none."""
    try:
        names = os.listdir(folder / "lease")
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if NUMBER.fullmatch(name)), default=0)


@contextmanager
def beating(lease: Lease, lost: Callable[[], None], every: float = BEAT) -> Iterator[None]:
    """Keep the heartbeat in a thread. `lost` is called there, once, when another holder has taken over."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every):
            try:
                mine = lease.held()
                if mine:
                    lease.beat()
            except FileNotFoundError:  # the run's folder was deleted
                mine = False
            except OSError:
                continue  # the file system is away for a moment; if for long, the claim grows old by itself
            if not mine:
                lost()
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _make(file: Path, claim: dict[str, Any]) -> bool:
    """Create `file` with its content if the name is free. One of several callers gets True."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".claim.")
    try:
        with os.fdopen(handle, "w") as f:
            json.dump(claim, f)
            f.flush()
            os.fchmod(f.fileno(), 0o666 & ~UMASK)  # colleagues must see whether its holder lives
            os.fsync(f.fileno())
        try:
            os.link(name, file)
        except FileExistsError:
            # A file server that repeats a request answers "exists" about our own success.
            return bool(_read(file)[0].get("token") == claim["token"])
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            return _make_without_links(file, claim)
        return True
    finally:
        os.unlink(name)


def _make_without_links(file: Path, claim: dict[str, Any]) -> bool:
    """For file systems that have no hard links. A claim seen half-written is judged by its heartbeat."""
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as f:
        json.dump(claim, f)
    return True


def _read(file: Path) -> tuple[dict[str, Any], float]:
    """A claim and the time of its last heartbeat; a claim that cannot be read is an empty one.

    Raises FileNotFoundError.
    """
    try:
        with open(file, "rb") as f:  # opening makes an NFS client ask the server for the present state
            text, time = f.read(MOST_BYTES), os.fstat(f.fileno()).st_mtime
    except (IsADirectoryError, PermissionError):
        return {}, os.stat(file).st_mtime
    try:
        claim = json.loads(text)
    except (ValueError, RecursionError):
        claim = {}
    return (claim if isinstance(claim, dict) else {}), time


def _alive(file: Path, limit: float) -> bool:
    try:
        claim, heartbeat = _read(file)
    except FileNotFoundError:
        return False
    if claim.get("released"):
        return False
    here, process = _here(), _process(claim)
    if here is not None and claim.get("where") == here and process is not None:
        living = _living(*process)
        if living is not None:
            return living
    return abs(_server_time(file.parent) - heartbeat) <= limit


def _process(claim: dict[str, Any]) -> tuple[int, int | None] | None:
    """The number and the start of the process that made a claim; None where it does not say them."""
    pid, started = claim.get("pid"), claim.get("started")
    if type(pid) is not int or not 0 < pid <= MOST_PID:
        return None
    return (pid, started) if started is None or type(started) is int else None


def _server_time(folder: Path) -> float:
    """Now, by the clock that also stamps the heartbeats."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as f:
        return os.stat(f.name).st_mtime


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"token": secrets.token_hex(8), "where": _here(), "pid": pid, "started": _started(pid)}


def _here() -> list[str] | None:
    """Within what process numbers mean the same: host, boot and PID namespace. None where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _living(pid: int, started: int | None) -> bool | None:
    """Whether process `pid` lives and is the one that began at `started`; None where that cannot be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, but there
    now = _started(pid)
    if now == DEAD:
        return False
    if now is None or started is None:
        return None
    return now == started


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; DEAD where it only waits to be reaped (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return DEAD if fields[0] in "ZX" else int(fields[19])
