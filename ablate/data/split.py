"""The tokens of one split, memory-mapped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.source import SPLITS, DataError


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


def open_split(folder: Path, name: str, held: Mapping[str, Any]) -> Split:
    """A split of a cache, memory-mapped; `held` is what its cache.json says."""
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


class JoinedSplits(Mapping[str, Split]):
    """The splits of several sources, each put together when it is asked for. That of training is not: it may
    be larger than memory, and the sources have other shares of it than their sizes."""

    def __init__(self, each: Sequence[Mapping[str, Split]]):
        self._each = each

    def __getitem__(self, name: str) -> Split:
        if name == "train":
            raise DataError("data: the training text of a mixture lies in its sources: Prepared.ingredients")
        return joined_split([splits[name] for splits in self._each])

    def __iter__(self) -> Iterator[str]:
        return (name for name in SPLITS if name != "train")

    def __len__(self) -> int:
        return len(SPLITS) - 1


def joined_split(splits: Sequence[Split]) -> Split:
    """The text of several splits, one after the other."""
    begins = np.cumsum([0, *(len(split.tokens) for split in splits[:-1])])
    offsets = [split.document_offsets + begin for split, begin in zip(splits, begins, strict=True)]
    return Split(
        splits[0].name,
        np.concatenate([split.tokens for split in splits]),
        np.concatenate(offsets),
        sum(split.bytes for split in splits),
    )
