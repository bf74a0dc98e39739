"""Where text comes from. One file for each source; this page is what a source must do."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, get_args

import numpy as np

from ablate.errors import AblateError

SplitName = Literal["train", "validation", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class DataError(AblateError, ValueError):
    """Text that cannot be used, with the place, the reason and what to do."""


LONGEST = 2**28  # characters of a document, and bytes of a line: a document is held in memory
PIECE = 2**20  # characters that are encoded at once


def utf8_blocks(text: str) -> Iterator[bytes]:
    """The text as UTF-8, in pieces: whole, a long one would take its memory twice."""
    return (text[at : at + PIECE].encode() for at in range(0, len(text), PIECE))


class NetworkError(AblateError, ConnectionError):
    """A source that lies elsewhere and cannot be reached."""


class Source(ABC):
    """Documents of three splits. The same options and the same content give the same documents, in the
    same order, every time."""

    limit: int | None = None  # tokens of the training split to keep; None: all
    absent: tuple[SplitName, ...] = ()  # the splits that are empty by choice

    @abstractmethod
    def documents(self, split: SplitName) -> Iterator[str]:
        """The documents of a split, none of them empty. Raises DataError, NetworkError."""

    def token_documents(self, split: SplitName) -> Iterator[np.ndarray] | None:
        """The documents of a split as tokens (N,), end tokens included, where the source has no text; else
        None. Raises DataError."""
        return None

    def every(self) -> Iterator[tuple[SplitName, str]]:
        """The documents of all splits, one split after the other."""
        return ((split, document) for split in SPLITS for document in self.documents(split))

    def manifest(self) -> str:
        """SHA-256 (hex) of what identifies the text: by default every document of every split, and the limit.
        It knows nothing of paths, so a copy of the text elsewhere is the same text."""
        content = hashlib.sha256()
        if self.limit is not None:
            content.update(f"limit {self.limit}\n".encode())
        begun = 0
        for split, document in self.every():
            for name in SPLITS[begun : SPLITS.index(split) + 1]:
                content.update(f"split {name}\n".encode())
            begun = SPLITS.index(split) + 1
            content.update(f"{sum(map(len, utf8_blocks(document)))}\n".encode())
            for piece in utf8_blocks(document):
                content.update(piece)
        for name in SPLITS[begun:]:
            content.update(f"split {name}\n".encode())
        return content.hexdigest()

    def change_stamp(self) -> Any:
        """Plain JSON that is quick to get and changes whenever the text does (sizes and times of files).
        While it stays, the manifest is not computed again. Raises DataError, NetworkError."""
        return None


def documents_by_split(source: Source) -> Iterator[tuple[SplitName, Iterator[str]]]:
    """The documents of each split, in one reading of the source where all of them are wanted. Those of one
    split are to be taken before the next is asked for."""
    if source.limit is not None:
        yield from ((name, source.documents(name)) for name in SPLITS)
        return
    groups = groupby(source.every(), key=itemgetter(0))
    group = next(groups, None)
    for name in SPLITS:
        if group is None or group[0] != name:
            yield name, iter(())
            continue
        yield name, map(itemgetter(1), group[1])
        group = next(groups, None)
