"""Where text comes from. One file for each source; this page is what a source must do."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, get_args

SplitName = Literal["train", "validation", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class BadText(ValueError):
    """Text that cannot be used, with the place, the reason and what to do."""


class NoNetwork(ConnectionError):
    """A source that lies elsewhere and cannot be reached."""


class Source(ABC):
    """Documents of three splits. The same options and the same content give the same documents, in the
    same order, every time."""

    limit: int | None = None  # tokens of the training split to keep; None: all
    absent: tuple[SplitName, ...] = ()  # the splits that are empty by choice

    @abstractmethod
    def documents(self, split: SplitName) -> Iterator[str]:
        """The documents of a split, none of them empty. Raises BadText, NoNetwork."""

    def manifest(self) -> str:
        """SHA-256 (hex) of what identifies the text: by default every document of every split, and the limit.
        It knows nothing of paths, so a copy of the text elsewhere is the same text."""
        content = hashlib.sha256()
        if self.limit is not None:
            content.update(f"limit {self.limit}\n".encode())
        for split in SPLITS:
            content.update(f"split {split}\n".encode())
            for document in self.documents(split):
                text = document.encode()
                content.update(f"{len(text)}\n".encode())
                content.update(text)
        return content.hexdigest()

    def change_stamp(self) -> Any:
        """Plain JSON that is quick to get and changes whenever the text does (sizes and times of files).
        While it stays, the manifest is not computed again. Raises BadText, NoNetwork."""
        return None
