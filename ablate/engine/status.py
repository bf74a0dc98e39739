"""How far a study is: read from its list of runs, their records, leases and curves. Nothing is started, and
nothing is loaded that could start something."""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ablate.engine.lease import holder, newest, taken
from ablate.engine.roster import Roster, RosterRun
from ablate.engine.store import MISSING, Store
from ablate.record import RunRecord, read_lines


@dataclass(frozen=True)
class RunStatus:
    """One run of a list. `state` is the record's status, or

    running: a live process holds it;  waiting: it has not begun;  stale: its outcome is of other sources.

    `seconds` of a finished run are its training's; of a running one those so far, with `step` as the last
    row of its curve says. `where` names the host and the process of a running one.
    """

    run: RosterRun
    state: str
    reason: str = ""
    seconds: float | None = None
    step: int | None = None
    where: str = ""
    log: Path | None = None


@dataclass(frozen=True)
class StudyStatus:
    """All runs of a study's list, and the seconds that are left at the pace so far; None where no run tells
    the pace."""

    roster: Roster
    runs: tuple[RunStatus, ...]
    seconds_left: float | None
    broken: dict[str, str]  # record files that cannot be read, by id

    def of(self, *states: str) -> list[RunStatus]:
        """The runs in one of these states."""
        return [run for run in self.runs if run.state in states]

    @property
    def failed(self) -> list[RunStatus]:
        """Runs that ended without a loss to compare."""
        return self.of("diverged", "out_of_memory", "refused", *MISSING)

    @property
    def done(self) -> list[RunStatus]:
        """Runs that have their outcome."""
        return self.of("finished", "diverged", "out_of_memory", "refused")


def study_status(roster: Roster, root: Path) -> StudyStatus:
    """Look at every run of the list once."""
    store = Store(root)
    unique = {run.id: run for run in roster.runs}
    runs = tuple(_run_status(run, store) for run in unique.values())
    return StudyStatus(roster, runs, _seconds_left(runs, roster.slots), dict(store.broken))


def _run_status(run: RosterRun, store: Store) -> RunStatus:
    folder = store.folder(run.id)
    log = folder / "log"
    log_or_none = log if log.is_file() else None
    if newest(folder) and _held(folder):
        row = _last_row(folder)
        return RunStatus(run, "running", "", row.get("seconds"), row.get("step"), holder(folder), log_or_none)
    record = store.find(run.id)
    if record is None:
        return RunStatus(run, "waiting")
    if record.status not in MISSING and record.source_hash != run.source_hash:
        return RunStatus(run, "stale", "made by other sources, and done again")
    return RunStatus(run, record.status, record.reason, _seconds(record), log=log_or_none)


def _held(folder: Path) -> bool:
    """Whether a live process holds the run. A folder in which nothing may be written is asked by this host's
    clock: the claim of a colleague's run is touched every few seconds."""
    try:
        return taken(folder)
    except OSError:
        claim = folder / "lease" / str(newest(folder))
        try:
            return abs(time.time() - claim.stat().st_mtime) < 120 and b'"released"' not in claim.read_bytes()
        except OSError:
            return False


def _last_row(folder: Path) -> dict[str, Any]:
    """The step and the seconds of training in the last row of a growing curve, if they are numbers."""
    last: dict[str, Any] = {}
    for row in read_lines(folder / "curve.jsonl"):
        last = row
    numbers = {"step": int, "seconds": int | float}
    return {name: last[name] for name, kind in numbers.items() if isinstance(last.get(name), kind)}


def _seconds(record: RunRecord) -> float | None:
    return record.speed.get("seconds")


def _seconds_left(runs: Iterable[RunStatus], slots: int) -> float | None:
    """What is left of running runs at their own pace, and of others at the median of their arm, or of all."""
    by_arm: dict[str, list[float]] = defaultdict(list)
    left, pending = 0.0, []
    for run in runs:
        if run.state == "finished" and run.seconds is not None:
            by_arm[run.run.arm].append(run.seconds)
        elif run.state == "running" and run.seconds and run.step:
            whole = run.seconds * run.run.steps / run.step
            by_arm[run.run.arm].append(whole)
            left += max(0.0, whole - run.seconds)
        elif run.state in ("running", "waiting", "stale", *MISSING):
            pending.append(run)
    known = [seconds for times in by_arm.values() for seconds in times]
    if pending and not known:
        return None
    left += sum(median(by_arm.get(run.run.arm) or known) for run in pending)
    return left / max(1, min(slots, len(pending) + 1)) if pending else left
