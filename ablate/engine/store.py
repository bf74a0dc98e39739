"""The store: a folder of runs, `runs/<id>/record.json`, and nothing else. No server, no index.

Ten thousand records are read and checked in a few seconds, so there is no index on disk that could be
out of date. A process reads a record once, and again when its file has changed: it remembers
summaries. Whoever wrote a record (a study, a Hydra multirun, one `train.py`) counts the same.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.engine.lease import Lease, LeaseLost
from ablate.record import TRAINED, RunRecord, RunSummary, atomic
from ablate.spec import RunSpec, SeedSpec, digest

log = logging.getLogger(__name__)

MISSING = ("crashed", "interrupted")  # no outcome: the run is done again


FileVersion = tuple[int, int, int]  # when it was written, its size, its number in the file system


class Store:
    """Records by id. `broken` says which record files could not be read, and why."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.broken: dict[str, str] = {}
        self._summaries: dict[str, tuple[FileVersion, RunSummary | None]] = {}

    def folder(self, id: str) -> Path:
        return self.root / id

    def load(self, id: str) -> RunRecord:
        """Raises FileNotFoundError, or ValueError for a record that is not one."""
        record = RunRecord.load(self.folder(id))
        if record.id != id:
            raise ValueError(f"{self.folder(id) / 'record.json'} is the record of {record.id}")
        return record

    def find(self, id: str) -> RunRecord | None:
        """The record, or None where there is none. A broken one is reported and counts as none."""
        try:
            record = self.load(id)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, OSError) as error:
            self._report(id, error)
            return None
        self.broken.pop(id, None)
        return record

    def summary(self, id: str) -> RunSummary | None:
        """The summary of a record, as `find` answers. The file is read anew only where it has changed since
        it was read last: a record is written aside and renamed."""
        try:
            file = os.stat(os.path.join(self.root, id, "record.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return self._summarised(id)  # says why not
        version = (file.st_mtime_ns, file.st_size, file.st_ino)
        known = self._summaries.get(id)
        if known is None or known[0] != version:
            known = self._summaries[id] = version, self._summarised(id)
        return known[1]

    def _summarised(self, id: str) -> RunSummary | None:
        record = self.find(id)
        return None if record is None else record.summary(identity_of(record))

    def finished(self, id: str, source_hash: str | None) -> bool:
        """The run has its outcome, from these very sources (None: from any): it is not to be done again.

        Outcomes are finished, diverged, out_of_memory and refused; crashed and interrupted are missing data.
        """
        summary = self.summary(id)
        return (
            summary is not None
            and _ended(summary, source_hash)
            and self._of_its_specification(id, summary.identity)
        )

    def outcome(self, id: str, source_hash: str | None) -> RunRecord | None:
        """The record of a run that is finished in this sense. One whose specification has another id is
        reported and counts as none."""
        record = self.find(id)
        if record is None or not _ended(record, source_hash):
            return None
        return record if self._of_its_specification(id, identity_of(record)) else None

    def _of_its_specification(self, id: str, identity: str | None) -> bool:
        """Whether the record is that of its folder; None is the identity of one that is not understood."""
        if identity in (None, id):
            return True
        self._report(id, ValueError(f"{self.folder(id) / 'record.json'} has the specification of {identity}"))
        return False

    def records(self) -> Iterator[RunRecord]:
        """Every record, in the order of their ids. Broken ones are left out and reported in `broken`."""
        if not self.root.is_dir():
            return
        with os.scandir(self.root) as entries:
            ids = sorted(e.name for e in entries if not e.name.startswith("."))
        for id in ids:
            record = self.find(id)
            if record is not None:
                yield record

    def commit(self, lease: Lease) -> RunRecord:
        """Put the record in the lease's outbox in its place, and return the record that now stands there.

        What lies beside the record in the outbox (weights, tokenizer, curve) is moved first.

        A crashed or interrupted run never replaces an outcome, nor one that the machine stopped (refused, out
        of memory) what the same sources have trained. An outcome from other sources is kept beside the
        new one as `record.<code>.json`. Raises LeaseLost where another holder has taken over.
        """
        try:
            record = RunRecord.load(lease.outbox)
        except FileNotFoundError as error:
            raise LeaseLost(lease.folder.name) from error
        if not lease.held():
            raise LeaseLost(lease.folder.name)
        place = lease.folder / "record.json"
        there = self.find(lease.folder.name)
        if there is not None and there.status not in MISSING:
            trained = there.status in TRAINED and there.source_hash == record.source_hash
            if record.status in MISSING or (trained and record.status not in TRAINED):
                return there
            if there.source_hash != record.source_hash:
                _keep(place, lease.folder / f"record.{there.source_hash}.json")
        try:
            if record.status in TRAINED:
                _move_beside(lease)
            os.replace(lease.outbox / "record.json", place)
        except FileNotFoundError as error:  # removed by whoever took the lease over: see lease.py
            raise LeaseLost(lease.folder.name) from error
        if record.status in TRAINED and record != there:
            _drop_others(record, lease.folder)
        return record

    def _report(self, id: str, error: Exception) -> None:
        reason = str(error)
        if self.broken.get(id) != reason:
            log.warning("%s; it counts as missing", reason)
        self.broken[id] = reason


def identity_of(record: RunRecord) -> str | None:
    """The id of the record's specification and fingerprint; None for one that is not understood, as where
    own parts are not loaded."""
    unseeded = {name: value for name, value in record.spec.items() if name != "seed"}
    key = digest([unseeded, record.fingerprint])
    try:
        if key not in _canonical:
            _canonical[key] = RunSpec.model_validate(record.spec).canonical(record.fingerprint)
        seed = SeedSpec.model_validate(record.spec.get("seed"))
    except ValidationError:
        return None
    return digest({**_canonical[key], "seed": seed.model_dump(mode="json", exclude_defaults=True)})


_canonical: dict[str, dict[str, Any]] = {}  # by the hash of what they follow from: runs differ in seeds most


def _ended(run: RunRecord | RunSummary, source_hash: str | None) -> bool:
    return source_hash in (None, run.source_hash) and run.status not in MISSING


def _move_beside(lease: Lease) -> None:
    """Move what a run left in its outbox beside the record: weights, tokenizer, curve, by file. Each move
    raises FileNotFoundError where the outbox was cleared meanwhile, so nothing of a successor is replaced."""
    for new in sorted(lease.outbox.rglob("*")):
        if new.name != "record.json" and not new.name.startswith(".") and not new.is_dir():
            old = lease.folder / new.relative_to(lease.outbox)
            old.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, old)


def _drop_others(record: RunRecord, folder: Path) -> None:
    """Remove weights and a curve that the record does not name: they are of other sources."""
    if record.status == "finished" and not record.weights_hash:
        for name in ("weights", "tokenizer"):
            shutil.rmtree(folder / name, ignore_errors=True)
    if not record.weights_hash and not record.curve_hash:
        (folder / "curve.parquet").unlink(missing_ok=True)


def _keep(place: Path, aside: Path) -> None:
    if not aside.exists():
        with atomic(aside) as f:  # a copy: not every file system has links
            f.write(place.read_bytes())
