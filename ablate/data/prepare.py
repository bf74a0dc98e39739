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

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from ablate import registry
from ablate.data.pieces import PIECE_CHARACTERS, batches, dtype, pieces_of
from ablate.data.sound import held_in, is_whole, mark_untouched, sha256, signatures
from ablate.data.source import SPLITS, DataError, NetworkError, Source, SplitName, documents_by_split
from ablate.data.source.mixture import Mixture, Vocabulary
from ablate.data.split import JoinedSplits, Split, open_split
from ablate.data.task import Generated
from ablate.data.tokenizer import Tokenizer, TokenizerError, first_bytes
from ablate.record import atomic, content_hash
from ablate.registry import Options
from ablate.spec import DataSpec, digest

_FORMAT = 1  # raise it when the files change their meaning

log = logging.getLogger("ablate.data")


@dataclass(frozen=True)
class Prepared:
    """What training needs of the data. A split is read by whoever asks for it by name, and by no one else."""

    fingerprint: dict[str, str]  # {"source": manifest, "tokenizer": hash}: what identity hashes
    tokenizer: Tokenizer
    vocab: int
    splits: Mapping[str, Split]  # train, validation, heldout
    files: dict[str, str]  # SHA-256 of each file of the cache, for the record
    folder: Path
    ingredients: Mapping[str, "MixtureShare"] = field(default_factory=dict)  # of a mixture, by name
    sets: Mapping[str, Mapping[str, Split]] = field(default_factory=dict)  # name -> its splits


class MixtureShare(NamedTuple):
    """A source of a mixture: of each ROWS_IN_BLOCK rows of training, `rows` are its own."""

    rows: int
    splits: Mapping[str, Split]


class Words(NamedTuple):
    """A tokenizer that is learned already: where it is saved, and its hash."""

    folder: Path
    hash: str


def prepare(data: DataSpec, cache: Path) -> Prepared:
    """The tokenised text, from the cache or built into it.

    Raises DataError (text that cannot be used), NetworkError, TokenizerError.
    """
    cache.mkdir(parents=True, exist_ok=True)
    source: Source = registry.source.build(data.source)
    if isinstance(source, Mixture):
        prepared = prepared_mixture(data, source, cache)
    else:
        prepared = prepared_alone(data.source, data.tokenizer, cache)
    return prepared if data.sets is None else beside(prepared, data, cache)


def prepared_alone(
    options: Options, tokenizer_options: Options, cache: Path, words: Words | None = None
) -> Prepared:
    """The text of one source, in the tokens of a tokenizer that learns from it, or in those of `words`."""
    source: Source = registry.source.build(options)
    tokenizer: Tokenizer = registry.tokenizer.build(tokenizer_options)
    manifest, change_stamp = identify(source, options, cache)
    content = {"format": _FORMAT, "source": manifest, "tokenizer": tokenizer.recipe()}
    if words is not None:
        content["learned"] = words.hash
    folder = whole_cache(cache, content, source, change_stamp, tokenizer, words)
    return open_cache(folder, registry.tokenizer.build(tokenizer_options))


def prepared_mixture(data: DataSpec, mixture: Mixture, cache: Path) -> Prepared:
    """The sources of a mixture, each from a cache of its own. Raises DataError for one of generated
    examples, and for sources that the tokenizer reads in different ways."""
    options: Mapping[str, Options] = data.source.sources  # type: ignore[attr-defined]
    for name, source in mixture.sources.items():
        if isinstance(source, Generated):
            raise DataError(f"mixture: data.source.sources.{name} generates examples; mix sources of text")
    words = shared_vocabulary(data, mixture, cache)
    each = {name: prepared_alone(options[name], data.tokenizer, cache, words) for name in mixture.sources}
    for name, prepared in each.items():
        if prepared.splits["train"].loss_mask is not None:
            raise DataError(f"mixture: data.source.sources.{name} marks answers; mix sources of text")
    first = next(iter(each.values()))
    if len({prepared.fingerprint["tokenizer"] for prepared in each.values()}) > 1:
        raise DataError(
            f"mixture: {data.tokenizer.name} is another tokenizer for each source; say `learned = True` in it"
        )
    rows = mixture.rows({name: len(prepared.splits["train"].tokens) for name, prepared in each.items()})
    manifests = {name: prepared.fingerprint["source"] for name, prepared in each.items()}
    return replace(
        first,
        fingerprint={**first.fingerprint, "source": content_hash({"manifests": manifests, "rows": rows})},
        splits=JoinedSplits([prepared.splits for prepared in each.values()]),
        files={f"{name}/{file}": sha for name, found in each.items() for file, sha in found.files.items()},
        ingredients={name: MixtureShare(rows[name], prepared.splits) for name, prepared in each.items()},
        sets={name: prepared.splits for name, prepared in each.items()},
    )


def shared_vocabulary(data: DataSpec, mixture: Mixture, cache: Path) -> Words | None:
    """What a tokenizer learns from all sources of a mixture; their weights and names are no matter."""
    tokenizer: Tokenizer = registry.tokenizer.build(data.tokenizer)
    if not tokenizer.learned:
        return None
    options: Mapping[str, Options] = data.source.sources  # type: ignore[attr-defined]
    known = {name: identify(each, options[name], cache)[0] for name, each in mixture.sources.items()}
    source = Vocabulary({name: mixture.sources[name] for name in sorted(known, key=lambda name: known[name])})
    content = {"format": _FORMAT, "source": sorted(known.values()), "tokenizer": tokenizer.recipe()}
    folder = whole_cache(cache, content, source, None, tokenizer)
    return Words(folder, str(held_in(folder)["tokenizer"]))


def beside(prepared: Prepared, data: DataSpec, cache: Path) -> Prepared:
    """With the sets that are scored beside the source, in its tokens."""
    words = Words(prepared.folder, prepared.tokenizer.hash()) if prepared.tokenizer.learned else None
    each = {
        name: prepared_alone(options, data.tokenizer, cache, words)
        for name, options in (data.sets or {}).items()
    }
    manifests = {name: found.fingerprint["source"] for name, found in each.items()}
    return replace(
        prepared,
        fingerprint={**prepared.fingerprint, "sets": content_hash(manifests)},
        sets={name: found.splits for name, found in each.items()},
    )


def whole_cache(
    cache: Path,
    content: Any,
    source: Source,
    change_stamp: Any,
    tokenizer: Tokenizer,
    words: Words | None = None,
) -> Path:
    """The folder of a cache, which is built where it is not whole."""
    folder = cache / digest(content)
    if not is_whole(folder, content):
        from filelock import FileLock

        with FileLock(cache / f".{folder.name}.lock"):
            if not is_whole(folder, content):  # another process may have built it while this one waited
                build(folder, content, source, change_stamp, tokenizer, words)
    return folder


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


# ------------------------------------------------------------------------------------------ building


def build(
    folder: Path,
    content: Any,
    source: Source,
    change_stamp: Any,
    tokenizer: Tokenizer,
    words: Words | None = None,
) -> None:
    """Make the cache aside, then put it in its place. The caller holds the lock."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir():  # of a process that was killed
            shutil.rmtree(left)
    aside = folder.parent / f".{folder.name}.{uuid4().hex}"
    aside.mkdir()
    try:
        fill_cache(aside, content, source, tokenizer, words)
        refuse_change(source, change_stamp)
        if folder.exists():
            os.replace(folder, aside.with_suffix(".damaged"))
        os.replace(aside, folder)
        mark_untouched(folder, signatures(folder, held_in(folder)["files"]))
        shutil.rmtree(aside.with_suffix(".damaged"), ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def fill_cache(
    folder: Path, content: Any, source: Source, tokenizer: Tokenizer, words: Words | None = None
) -> None:
    """Learn the tokenizer, or take that of `words`, and write the tokens of every split into `folder`."""
    log.info("data: tokenising, once, into %s", folder.parent)
    made = source.token_documents("train") is not None  # tokens are there, and no text
    if words is not None:
        tokenizer.load(words.folder)
    else:
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
        raise DataError(
            f"data: {place}: an example may have {PIECE_CHARACTERS} characters at most; this one has more"
        )
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
