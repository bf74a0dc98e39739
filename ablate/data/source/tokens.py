"""Tokens that another tool has made."""

import glob
import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt, MinLen

from ablate.data.shards import Shard, open_shard
from ablate.data.source import SPLITS, DataError, Source, SplitName
from ablate.registry import source


@source("tokens", paper="Token shards of nanoGPT, llm.c, OLMo-core, Megatron-LM, litgpt")
class Tokens(Source):
    """Tokens that another tool has made, read as they are.

    `files`, by path or glob, are the training split, in the order of their names; `validation_files` and
    `heldout_files` the others. Without files of its own, validation is the last `validation` share of the
    documents in `files`, and heldout the `heldout` share after it.

    A raw file (nanoGPT's .bin, OLMo-core's .npy without a header) does not say its number type: `dtype` does.
    Megatron's index and litgpt's chunks (`litdata`) say where documents lie; elsewhere the token `end` stands
    after each (`border: after`) or before it (`border: before`, as llm.c has it); without `end` a file is one
    document. Files of earlier litgpt and TinyLlama (`litpkds`) are filled up with `end`, which is left out.
    The tokenizer is the one that made them: data/tokenizer=saved, or data/tokenizer=symbols where only its
    size is known.
    """

    def __init__(
        self,
        *,
        files: Annotated[list[str], MinLen(1)],
        validation_files: list[str] = [],  # noqa: B006
        heldout_files: list[str] = [],  # noqa: B006
        format: Literal["auto", "raw", "npy", "llmc", "megatron", "litdata", "litpkds"] = "auto",
        dtype: Literal["uint16", "uint32", "int32", "int64"] = "uint16",
        end: Annotated[int, Ge(0)] | None = None,
        border: Literal["after", "before"] = "after",
        validation: Annotated[float, Ge(0), Lt(0.5)] = 0.005,
        heldout: Annotated[float, Ge(0), Lt(0.5)] = 0.005,
        tokens: Annotated[int, Ge(1)] | None = None,
    ):
        self.patterns: dict[SplitName, list[str]] = {
            "train": files,
            "validation": validation_files,
            "heldout": heldout_files,
        }
        self.shares = {"validation": validation, "heldout": heldout}
        self.format, self.dtype, self.end, self.border = format, dtype, end, border
        self.limit = tokens
        if not heldout and not heldout_files:
            self.absent = ("heldout",)

    def documents(self, split: SplitName) -> Iterator[str]:
        raise DataError(
            "tokens: there is no text to learn a tokenizer from; say data/tokenizer=saved or symbols"
        )

    def token_documents(self, split: SplitName) -> Iterator[np.ndarray]:
        """The documents of a split (tokens,) in the number type of their file, end tokens included."""
        if self.patterns[split] and split != "train":
            yield from self._all(self.patterns[split])
            return
        first, last = self._borders[split]
        for n, document in enumerate(self._all(self.patterns["train"])):
            if n >= last:
                return
            if n >= first:
                yield document

    def manifest(self) -> str:
        """SHA-256 (hex) of every token of every document, whatever the format or the number type."""
        content = hashlib.sha256(f"tokens {self.limit}\n".encode())
        for split in SPLITS:
            content.update(f"split {split}\n".encode())
            for document in self.token_documents(split):
                content.update(f"{len(document)}\n".encode())
                content.update(np.asarray(document, dtype="<u4").tobytes())
        return content.hexdigest()

    def change_stamp(self) -> Any:
        paths = [path for split in SPLITS for path in self._paths(self.patterns[split])]
        seen = [(path, path.stat()) for path in paths]
        return [[str(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns] for path, s in seen]

    @cached_property
    def _borders(self) -> dict[SplitName, tuple[int, int]]:
        """Which documents of `files` belong to each split that has no files of its own."""
        taken = {name: share for name, share in self.shares.items() if not self.patterns[name]}  # type: ignore[index]
        total = sum(1 for _ in self._all(self.patterns["train"]))
        counts = {name: max(1, round(total * share)) if share else 0 for name, share in taken.items()}
        if total <= sum(counts.values()):
            raise DataError(
                f"tokens: {total} documents are too few to deal out to the splits; give validation_files and "
                "heldout_files, or the token that ends a document: data.source.end=N"
            )
        at = total - sum(counts.values())
        borders: dict[SplitName, tuple[int, int]] = {"train": (0, at)}
        for name in ("validation", "heldout"):
            borders[name] = (at, at + counts.get(name, 0))
            at = borders[name][1]
        return borders

    def _all(self, patterns: list[str]) -> Iterator[np.ndarray]:
        for path in self._paths(patterns):
            yield from self._shard(path).documents(self.end, self.border)

    def _shard(self, path: Path) -> Shard:
        return open_shard(path, self.format, np.dtype(self.dtype))

    def _paths(self, patterns: list[str]) -> list[Path]:
        found: dict[Path, None] = {}
        for pattern in patterns:
            files = [
                Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if Path(path).is_file()
            ]
            if not files:
                raise DataError(f"tokens: {pattern!r} matches no file (seen from {Path.cwd()})")
            found |= dict.fromkeys(path.resolve() for path in files if path.suffix not in (".idx", ".json"))
        return list(found)
