"""Finished runs in files that travel with a study: their records and curves, without weights.

    experiments/NAME/records/<hash>.tar.xz    <hash>: 16 hex digits of the SHA-256 of the file

A file never changes. Runs that ended since are packed into another one, so that what two machines have packed
lies side by side.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ablate.engine.lease import take
from ablate.engine.store import MISSING, Store
from ablate.record import RunRecord, atomic
from ablate.study.results.curves import CURVE_VALUES, curve_rows

ENDING = ".tar.xz"
MOST_OF_ARCHIVE = 15 * 2**20  # of one file: many hosts of git refuse or warn beyond
MOST_OF_MEMBER = 2**26  # of one file in it: a record has 5 kB, a curve 30
MEMBER = re.compile(r"(?P<id>[0-9a-f]{12})/(?P<name>record\.json|curve\.parquet)")

PackedFiles = dict[str, bytes]  # what is packed of a run: name of the file -> content


def pack_records(folder: Path, ids: Iterable[str], store: Store, most: int = MOST_OF_ARCHIVE) -> list[Path]:
    """Pack the records of these runs that have an outcome and are not packed yet; return the new files.

    Raises ValueError for a packed file that is damaged, or a run that is larger than `most` bytes.
    """
    there = {(id, run["record.json"]) for id, run in _packed(folder)}
    new: dict[str, PackedFiles] = {}
    for id in dict.fromkeys(ids):
        record = store.find(id)
        if record is None or record.status in MISSING:
            continue
        curve = _curve(store.folder(id), record)
        content = _portable(record, curve)
        if (id, content) not in there:
            new[id] = {"record.json": content, "curve.parquet": curve}
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for content in _archives(sorted(new.items()), most):
        files.append(folder / f"{_hash(content)}{ENDING}")
        with atomic(files[-1]) as f:
            f.write(content)
    return files


def unpack_records(folder: Path, store: Store) -> int:
    """Take up the packed runs that the store has no outcome of; return how many these were.

    No outcome that the store has is overwritten. A run that another process holds is left to it. Raises
    ValueError for a file that is damaged, before anything is written.
    """
    packed: dict[str, PackedFiles] = {}
    for id, run in _packed(folder):
        if id not in packed or _rank(run) > _rank(packed[id]):
            packed[id] = run
    return sum(_take_up(id, run, store) for id, run in packed.items())


def _take_up(id: str, run: PackedFiles, store: Store) -> bool:
    known = store.find(id)
    if known is not None and known.status not in MISSING:
        return False
    lease = take(store.folder(id))
    if lease is None:
        return False
    try:
        (lease.outbox / "record.json").write_bytes(run["record.json"])
        with atomic(store.folder(id) / "curve.parquet") as f:
            f.write(run["curve.parquet"])
        store.commit(lease)
    finally:
        lease.release()
    return True


def _rank(run: PackedFiles) -> tuple[int, str]:
    """Of two records of one run the one that was measured more counts, then the later."""
    record = json.loads(run["record.json"])
    return len(record["measures"]), str(record["provenance"].get("ended"))


def _packed(folder: Path) -> Iterator[tuple[str, PackedFiles]]:
    """The runs in all files. Raises ValueError for the first file that is damaged."""
    for file in sorted(folder.glob(f"*{ENDING}")):
        content = file.read_bytes()
        try:
            if file.name != f"{_hash(content)}{ENDING}":
                raise ValueError("its content is not that of its name")
            yield from _runs(content).items()
        except (ValueError, KeyError, EOFError, tarfile.TarError, RecursionError) as error:
            raise ValueError(f"{file} is damaged ({error}); restore it, or delete it to run again") from None


def _runs(content: bytes) -> dict[str, PackedFiles]:
    """The runs in one file, whole and with their own ids. Raises ValueError."""
    found: dict[str, PackedFiles] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
        for member in archive:
            inside = MEMBER.fullmatch(member.name)
            if inside is None or not member.isreg() or member.size > MOST_OF_MEMBER:
                raise ValueError(f"{member.name!r} is neither a record nor a curve")
            opened = archive.extractfile(member)
            assert opened is not None  # as it is a regular file
            found.setdefault(inside["id"], {})[inside["name"]] = opened.read()
    for id, run in found.items():
        record = RunRecord.parse(run["record.json"])
        if record.id != id or "curve.parquet" not in run:
            raise ValueError(f"{id} is not whole")
    return found


def _archives(runs: Sequence[tuple[str, PackedFiles]], most: int) -> Iterator[bytes]:
    """The runs in as few halvings as make each archive at most `most` bytes large."""
    if not runs:
        return
    content = _archive(runs)
    if len(content) <= most:
        yield content
    elif len(runs) == 1:
        raise ValueError(f"{runs[0][0]}: its record has {len(content)} bytes when packed, more than {most}")
    else:
        middle = len(runs) // 2
        yield from _archives(runs[:middle], most)
        yield from _archives(runs[middle:], most)


def _archive(runs: Sequence[tuple[str, PackedFiles]]) -> bytes:
    """The same bytes for the same runs, whoever packs them, and when. Files of a kind lie together, so that
    what records share is stored once."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:xz", preset=9, format=tarfile.USTAR_FORMAT) as archive:
        for name in ("record.json", "curve.parquet"):
            for id, run in runs:
                member = tarfile.TarInfo(f"{id}/{name}")
                member.size = len(run[name])
                archive.addfile(member, io.BytesIO(run[name]))
    return made.getvalue()


def _portable(record: RunRecord, curve: bytes) -> bytes:
    """The record with the hash of the packed curve, and without the folder that the program lay in on the
    machine that made it."""
    provenance, command = dict(record.provenance), record.provenance.get("command")
    if isinstance(command, list) and command:
        provenance["command"] = [Path(str(command[0])).name, *command[1:]]
    named = hashlib.sha256(curve).hexdigest()
    return record.model_copy(update={"provenance": provenance, "curve_hash": named}).written()


def _curve(folder: Path, record: RunRecord) -> bytes:
    """The columns of a curve that results are made from, not compressed: the archive is."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    table = curve_rows(folder, record, CURVE_VALUES)
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    pyarrow.parquet.write_table(table, sink, **how)
    return bytes(sink.getvalue())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
