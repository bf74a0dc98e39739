"""What training says and studies hear: one `RunRecord` for each run, kept under `runs/<id>/`.

    runs/<id>/record.json     the outcome; written once, whole, at the end
    runs/<id>/curve.parquet   loss and friends by step
    runs/<id>/weights/        model.safetensors, if kept
    runs/<id>/checkpoint/     to resume from; removed when the run is finished

Append-only and atomic, with no server: a record is there whole or not at all. Its file ends with a hash over
the rest, so that a damaged or edited one is no record.
"""

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Status = Literal["finished", "diverged", "out_of_memory", "crashed", "interrupted", "refused"]

TRAINED = ("finished", "diverged")  # outcomes that training again would only repeat, on any machine

MOST_RECORD_BYTES = 1 << 30  # of a record: far beyond any
REMEDY = "restore a copy of it, or train that run again: rerun=true"

UMASK = os.umask(0)  # asked once, at the import: asking sets it, for all threads
os.umask(UMASK)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a study asks of a record again and again, in a tenth of its memory. `names` and `measures` are
    shared among all summaries that have the same."""

    id: str
    status: Status
    source_hash: str
    identity: str | None  # the id that follows from its specification; None where that is not understood
    measures: Mapping[str, str]
    names: tuple[str, ...]
    values: tuple[Any, ...]

    def columns(self) -> dict[str, Any]:
        """As those of its record."""
        return dict(zip(self.names, self.values, strict=True))

    def __getitem__(self, column: str) -> Any:
        """The value of a column, None where it has none."""
        return self.values[self.names.index(column)] if column in self.names else None


class RunRecord(BaseModel):
    """The outcome of one run.

    `finished` counts; `diverged` counts against the arm; `out_of_memory` is a cost outcome; `crashed`
    and `interrupted` are missing data, run again; `refused` belongs to the plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    status: Status
    reason: str = ""  # in words, where the status is not `finished`
    source_hash: str  # hash of the sources that made it
    spec: dict[str, Any]  # the RunSpec, whole, as plain JSON
    fingerprint: dict[str, str]  # of the text and the tokenizer
    metrics: dict[str, float | None] = {}  # `validation/loss` (nats per token), ...
    vectors: dict[str, list[float]] = {}  # measures with more than one value, `heldout/by_document`
    measures: dict[str, str] = {}  # those that gave numbers, each with the hash of its sources
    counts: dict[str, float] = {}  # parameters, FLOPs, KV bytes
    speed: dict[str, float] = {}  # tokens_per_second, seconds
    memory: dict[str, float] = {}  # peak bytes
    weights_hash: str = ""  # SHA-256 of weights/model.safetensors; empty where none were kept
    curve_hash: str = ""  # SHA-256 of curve.parquet; empty where there is none
    kernel: str = ""
    heldout_reads: int = 0  # times held-out was looked at
    provenance: dict[str, Any] = {}  # versions, hardware, command, device kind, git commit, time

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """Raises FileNotFoundError, or ValueError for a record that is not one, or was damaged or edited."""
        return cls.read(folder / "record.json")

    @classmethod
    def read(cls, file: Path) -> "RunRecord":
        """The record in a file of any name. Raises as `load`."""
        try:
            return cls.parse(read_regular(file, MOST_RECORD_BYTES))
        except ValueError as error:
            raise ValueError(f"{file} is not a record: {error}; {REMEDY}") from None

    @classmethod
    def parse(cls, text: bytes) -> "RunRecord":
        """The record in the content of a file. Raises ValueError."""
        try:
            content = json.loads(text.decode(), parse_constant=_refuse)
            if not isinstance(content, dict):
                raise ValueError("no object")
            if content.pop("hash", None) != content_hash(content):
                raise ValueError("hash: it is not that of the rest: the file was damaged or edited")
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "whole file"
            raise ValueError(f"{place}: {first['msg']}") from None
        except RecursionError as error:
            raise ValueError(str(error)) from None

    def columns(self) -> dict[str, Any]:
        """A row of a frame: status, reason, code and kernel, the metrics under their names, and `counts/...`,
        `speed/...`, `memory/...`."""
        row = {name: getattr(self, name) for name in ("status", "reason", "source_hash", "kernel")}
        for group in ("counts", "speed", "memory"):
            row |= {f"{group}/{name}": value for name, value in getattr(self, group).items()}
        return row | self.metrics

    def summary(self, identity: str | None) -> RunSummary:
        """The summary; `identity` is that of `ablate.engine.store.identity_of`."""
        columns = self.columns()
        names = tuple(columns)
        measures = tuple(sorted(self.measures.items()))
        return RunSummary(
            id=self.id,
            status=self.status,
            source_hash=sys.intern(self.source_hash),
            identity=self.id if identity == self.id else identity,
            measures=_measures.setdefault(measures, MappingProxyType(self.measures)),
            names=_names.setdefault(names, names),
            values=tuple(sys.intern(value) if type(value) is str else value for value in columns.values()),
        )

    def save(self, folder: Path) -> None:
        """Write record.json with its hash. Raises ValueError for a number that is not finite."""
        content = self.written()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "record.json") as f:
            f.write(content)

    def written(self) -> bytes:
        """The content of record.json, with its hash. Raises ValueError for a number that is not finite."""
        try:
            content = json.loads(json.dumps(self.model_dump(mode="json")), parse_constant=_refuse)
        except ValueError as error:
            raise ValueError(f"the record of {self.id} cannot be saved: {error}") from None
        return json.dumps({**content, "hash": content_hash(content)}, indent=1).encode()


# What summaries share.
_names: dict[tuple[str, ...], tuple[str, ...]] = {}
_measures: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}


def content_hash(content: Any) -> str:
    """The SHA-256 (hex) of canonical JSON: without spaces, its keys in order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no finite number")


def read_regular(file: Path, most: int) -> bytes:
    """The content of a file. Raises FileNotFoundError, IsADirectoryError, ValueError for one that is no file,
    as an endless device, or has more than `most` bytes."""
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as f:
        state = os.fstat(f.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is no file but a device or a pipe")
        if state.st_size > most:
            raise ValueError(f"it has {state.st_size} bytes; {most} is the most")
        return f.read()


def read_curve(folder: Path, curve_hash: str) -> bytes:
    """The content of a run's curve.parquet, with the hash that its record has (empty: a record without one).

    Raises FileNotFoundError or NotADirectoryError where there is none, OSError where it is damaged.
    """
    content = (folder / "curve.parquet").read_bytes()
    if curve_hash and hashlib.sha256(content).hexdigest() != curve_hash:
        raise OSError("its hash is not the one in the run's record; train that run again with rerun=true")
    return content


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, up to the first line that is none: a kill leaves half of one."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if not isinstance(row, dict):
                return
            yield row


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Write a file so that it is there whole or not at all: write aside, fsync, rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fchmod(f.fileno(), 0o666 & ~UMASK)  # mkstemp's 0600 would shut colleagues out
            os.fsync(f.fileno())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # which a full disk does not say
        raise
