"""Text to tokens on disk, once.

    <cache>/texts/<options>.json      the manifest of a source, valid while its files stay as they are
    <cache>/<key>/cache.json          what the cache holds: counts, sizes and hashes of its files, and its own
    <cache>/<key>/train.tokens        uint16 or uint32, end tokens included; memory-mapped
    <cache>/<key>/train.starts.npy    int64, where each document begins
    <cache>/<key>/train.scored        bool, beside each token; only where the tokenizer marks answers
    <cache>/<key>/...                 the same for validation and heldout; what the tokenizer saved

The key is of the content (manifest and tokenizer), so the same text elsewhere is found again. A cache is
built aside and renamed, under a lock: it is there whole or not at all, and processes that start at once
build it once.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ablate import registry
from ablate.data.pieces import PIECE, batches, dtype, pieces_of
from ablate.data.source import SPLITS, DataError, NetworkError, Source, SplitName, documents_by_split
from ablate.data.tokenizer import Tokenizer, TokenizerError, first_bytes
from ablate.record import atomic, content_hash
from ablate.registry import Options
from ablate.spec import DataSpec, digest

FORMAT = 1  # raise it when the files change their meaning

LARGE = 1 << 33  # bytes of a cache that take too long to be hashed by each process

HASHED: dict[Path, dict[str, list[int]]] = {}  # caches that this process has hashed: their files' signatures

log = logging.getLogger("ablate.data")


@dataclass(frozen=True)
class Split:
    """The tokens of one split. `tokens` (N,) uint16 or uint32; `starts` (documents,) int64; `bytes` counts
    the UTF-8 text, to which end tokens add nothing. `scored` (N,) bool: which tokens have a loss, where the
    documents are examples of a task; None: all of them, in text."""

    name: str
    tokens: np.ndarray
    document_offsets: np.ndarray
    bytes: int
    loss_mask: np.ndarray | None = None

    @property
    def bytes_per_token(self) -> float:
        """Bits per byte = (nats per token) / ln 2 / this. NaN for an empty split."""
        return self.bytes / len(self.tokens) if len(self.tokens) else float("nan")


@dataclass(frozen=True)
class Prepared:
    """What training needs of the data. A split is read by whoever asks for it by name, and by no one else."""

    fingerprint: dict[str, str]  # {"source": manifest, "tokenizer": hash}: what identity hashes
    tokenizer: Tokenizer
    vocab: int
    splits: Mapping[str, Split]  # train, validation, heldout
    files: dict[str, str]  # SHA-256 of each file of the cache, for the record
    folder: Path


def prepare(data: DataSpec, cache: Path) -> Prepared:
    """The tokenised text, from the cache or built into it.

    Raises DataError (text that cannot be used), NetworkError, TokenizerError.
    """
    source: Source = registry.source.build(data.source)
    tokenizer: Tokenizer = registry.tokenizer.build(data.tokenizer)
    cache.mkdir(parents=True, exist_ok=True)
    manifest, change_stamp = identify(source, data.source, cache)
    content = {"format": FORMAT, "source": manifest, "tokenizer": tokenizer.recipe()}
    folder = cache / digest(content)
    if not is_whole(folder, content):
        from filelock import FileLock

        with FileLock(cache / f".{folder.name}.lock"):
            if not is_whole(folder, content):  # another process may have built it while this one waited
                build(folder, content, source, change_stamp, tokenizer)
    return open_cache(folder, registry.tokenizer.build(data.tokenizer))


# --------------------------------------------------------------------------------- which text it is


def identify(source: Source, options: Options, cache: Path) -> tuple[str, Any]:
    """The manifest of a source and its stamp. The manifest is remembered while the stamp stays.

    A source that cannot be reached is what it was when it last could be.
    """
    memo = cache / "texts" / f"{digest(options.model_dump(mode='json'))}.json"
    known = recall(memo)
    try:
        change_stamp = stamp_of(source)
    except NetworkError as error:
        if known is None:
            raise
        log.warning("%s\nGoing on with the copy of %s", error, known["change_stamp"])
        return known["manifest"], None
    if known is not None and change_stamp is not None and known["change_stamp"] == change_stamp:
        return known["manifest"], change_stamp
    manifest = source.manifest()
    refuse_change(source, change_stamp)
    if change_stamp is not None:
        with suppress(OSError):  # a cache that cannot be written to still can be read
            memo.parent.mkdir(exist_ok=True)
            with atomic(memo) as file:
                known = {"change_stamp": change_stamp, "manifest": manifest}
                file.write(json.dumps({**known, "hash": content_hash(known)}).encode())
    return manifest, change_stamp


def recall(memo: Path) -> dict[str, Any] | None:
    """What was remembered, if it can be read and is what was written."""
    try:
        written = json.loads(memo.read_bytes())
        known = {"change_stamp": written["change_stamp"], "manifest": str(written["manifest"])}
        return known if written["hash"] == content_hash(known) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stamp_of(source: Source) -> Any:
    """The source's change stamp, as JSON gives it back."""
    return json.loads(json.dumps(source.change_stamp()))


def refuse_change(source: Source, change_stamp: Any) -> None:
    """Raises DataError if the text is no longer what it was at `stamp`."""
    if change_stamp is not None and stamp_of(source) != change_stamp:
        raise DataError("data: the text changed while it was read; start again when nothing writes to it")


# -------------------------------------------------------------------------------- is the cache sound


def is_whole(folder: Path, content: Any) -> bool:
    """Whether the cache is there and undamaged."""
    if not folder.is_dir():
        return False
    wrong = damage(folder, content)
    if wrong:
        log.warning("data: the cache %s is damaged (%s); building it anew", folder, wrong)
    return not wrong


def damage(folder: Path, content: Any) -> str:
    """What is wrong with a cache; empty if nothing is. Its files are hashed when a process first opens it and
    again when they were touched; those of a LARGE cache only if they were."""
    try:
        held = held_in(folder)
        if held["content"] != content:
            return "cache.json speaks of another text or tokenizer"
        for name, size in sizes(held).items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size} bytes, not {size}"
        seen = signatures(folder, held["files"])
        known = sum(held["sizes"].values()) >= LARGE and not touched(folder, seen)
        if not known and HASHED.get(folder) != seen:
            for name, expected in held["files"].items():
                if sha256(folder / name) != expected:
                    return f"{name} has another hash"
            mark_untouched(folder, seen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def held_in(folder: Path) -> dict[str, Any]:
    """What cache.json says. Raises ValueError where it is not what was written."""
    held: dict[str, Any] = json.loads((folder / "cache.json").read_bytes())
    if not isinstance(held, dict) or held.pop("hash", None) != content_hash(held):
        raise ValueError("cache.json is not what was written")
    return held


def sizes(held: Mapping[str, Any]) -> dict[str, int]:
    """The bytes of each file, where tokens and marks take as many as their number says."""
    found = dict(held["sizes"])
    for name in SPLITS:
        tokens = held["counts"][name]["tokens"]
        found[f"{name}.tokens"] = tokens * np.dtype(held["dtype"]).itemsize
        if f"{name}.scored" in found:
            found[f"{name}.scored"] = tokens
    return found


def touched(folder: Path, seen: Mapping[str, list[int]]) -> bool:
    """Whether the files differ from when they were last hashed."""
    try:
        return bool(json.loads((folder / "untouched.json").read_bytes()) != seen)
    except (OSError, ValueError):
        return True


def mark_untouched(folder: Path, seen: dict[str, list[int]]) -> None:
    """Remember the signatures under which the files were hashed and found whole."""
    HASHED[folder] = seen
    with suppress(OSError), atomic(folder / "untouched.json") as file:
        file.write(json.dumps(seen).encode())


def signatures(folder: Path, names: Mapping[str, str]) -> dict[str, list[int]]:
    """Size, times (ns) and inode of each file: what changes when a file is written."""
    seen = {name: (folder / name).stat() for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in seen.items()}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------ building


def build(folder: Path, content: Any, source: Source, change_stamp: Any, tokenizer: Tokenizer) -> None:
    """Make the cache aside, then put it in its place. The caller holds the lock."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir():  # of a process that was killed
            shutil.rmtree(left)
    aside = folder.parent / f".{folder.name}.{uuid4().hex}"
    aside.mkdir()
    try:
        fill(aside, content, source, tokenizer)
        refuse_change(source, change_stamp)
        if folder.exists():
            os.replace(folder, aside.with_suffix(".damaged"))
        os.replace(aside, folder)
        mark_untouched(folder, signatures(folder, held_in(folder)["files"]))
        shutil.rmtree(aside.with_suffix(".damaged"), ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def fill(folder: Path, content: Any, source: Source, tokenizer: Tokenizer) -> None:
    """Learn the tokenizer and write the tokens of every split into `folder`."""
    log.info("data: tokenising, once, into %s", folder.parent)
    made = source.token_documents("train") is not None  # tokens are there, and no text
    learned_from: Iterator[str] = iter(()) if made else source.documents("train")
    if source.limit is not None:
        learned_from = first_bytes(learned_from, 4 * source.limit)  # a character has 4 bytes at most
    tokenizer.learn(text for batch in batches(learned_from) for text, _, _ in batch)
    tokenizer.save(folder)
    counts = {
        name: write_split(folder, name, documents, source, tokenizer)
        for name, documents in (((n, iter(())) for n in SPLITS) if made else documents_by_split(source))
    }
    files = sorted(path.name for path in folder.iterdir())
    held = {
        "content": content,
        "tokenizer": tokenizer.hash(),
        "dtype": dtype(tokenizer).name,
        "counts": counts,
        "sizes": {name: (folder / name).stat().st_size for name in files},
        "files": {name: sha256(folder / name) for name in files},
    }
    with atomic(folder / "cache.json") as file:
        file.write(json.dumps({**held, "hash": content_hash(held)}, indent=1).encode())


def write_split(
    folder: Path, name: SplitName, documents: Iterator[str], source: Source, tokenizer: Tokenizer
) -> dict[str, int]:
    """Writes tokens, starts and marks; returns the counts. Raises DataError for a split that should not be
    empty, and for an example without a question or an answer."""
    limit = source.limit if name == "train" else None
    tokens, size, document_offsets = 0, 0, []
    marks: list[np.ndarray] = []
    with (folder / f"{name}.tokens").open("wb") as file:
        for text, numbers, first, last in pieces_of(documents, source, name, tokenizer):
            if first and limit is not None and tokens >= limit:
                break
            if first:
                document_offsets.append(tokens)
            loss_mask = tokenizer.loss_mask(text) if text else None
            if loss_mask is not None:
                marks.append(
                    checked_marks(
                        loss_mask, len(numbers), first and last, f"{name}, document {len(document_offsets)}"
                    )
                )
            file.write(numbers.tobytes())
            tokens += len(numbers)
            size += len(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if not tokens and name not in source.absent:
        raise DataError(
            f"data: the {name} split is empty: there is too little text, or in too few documents, to deal it "
            "out to the splits. Give more text, a larger share, or data.source.split=tail"
        )
    if limit is not None and tokens < limit:
        log.warning("data: the source ended after %d of %d training tokens", tokens, limit)
    np.save(folder / f"{name}.starts.npy", np.asarray(document_offsets, dtype=np.int64), allow_pickle=False)
    if marks:
        np.concatenate(marks).tofile(folder / f"{name}.scored")
    return {"tokens": tokens, "bytes": size}


def checked_marks(loss_mask: list[bool], tokens: int, whole: bool, place: str) -> np.ndarray:
    """Which tokens of an example are answers (tokens,). Raises DataError, TokenizerError."""
    if not whole:
        raise DataError(f"data: {place}: an example may have {PIECE} characters at most; this one has more")
    if len(loss_mask) != tokens:
        raise TokenizerError(f"data: {place}: {len(loss_mask)} marks for {tokens} tokens")
    if not any(loss_mask):
        raise DataError(f"data: {place}: nothing in it is marked as an answer, so nothing could be learned")
    if loss_mask[0]:
        raise DataError(f"data: {place}: its first token is an answer, but nothing stands before it")
    return np.asarray(loss_mask, dtype=bool)


# ------------------------------------------------------------------------------------------- opening


def open_cache(folder: Path, tokenizer: Tokenizer) -> Prepared:
    """The splits of a cache that is whole, mapped into memory."""
    held = held_in(folder)
    tokenizer.load(folder)
    return Prepared(
        fingerprint={"source": held["content"]["source"], "tokenizer": held["tokenizer"]},
        tokenizer=tokenizer,
        vocab=tokenizer.vocab,
        splits={name: open_split(folder, name, held) for name in SPLITS},
        files=held["files"],
        folder=folder,
    )


def open_split(folder: Path, name: str, held: Mapping[str, Any]) -> Split:
    """The tokens and document borders of one split, mapped into memory."""
    counts, kind = held["counts"][name], np.dtype(held["dtype"])
    if counts["tokens"]:
        tokens: np.ndarray = np.memmap(
            folder / f"{name}.tokens", dtype=kind, mode="r", shape=(counts["tokens"],)
        )
    else:
        tokens = np.empty(0, dtype=kind)  # an empty file cannot be mapped
    document_offsets = np.load(
        folder / f"{name}.starts.npy", mmap_mode="r" if counts["tokens"] else None, allow_pickle=False
    )
    loss_mask = None
    if f"{name}.scored" in held["files"]:
        loss_mask = np.memmap(folder / f"{name}.scored", dtype=bool, mode="r", shape=(counts["tokens"],))
    return Split(name, tokens, document_offsets, counts["bytes"], loss_mask)
