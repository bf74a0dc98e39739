"""Text from the Hugging Face Hub, by `datasets`."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Annotated, Any

from annotated_types import Gt

from ablate.data.source import DataError, NetworkError, Source, SplitName
from ablate.registry import source

CLIENTS = ("httpx", "httpcore", "requests", "aiohttp", "urllib3")  # whose errors mean the network
LOCAL = "data=stdlib needs no files, data=text takes your own (data.source.files=[...])"


@source("hub", paper="https://huggingface.co/docs/datasets")
class Hub(Source):
    """Any dataset of the Hugging Face hub that `datasets` can stream, read until there are enough tokens.

    `validation` and `heldout` are the names of splits, or numbers of documents: the first ones of the
    training split, heldout after validation. `begins` is for datasets whose rows are lines: a row that
    matches it (a regular expression) begins a document. `tokens`: how many to keep for training; null is
    all. The manifest is of the commit and these options: it is known before anything is downloaded.
    """

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        revision: str = "main",
        train: str = "train",
        validation: str | Annotated[int, Gt(0)] = "validation",
        heldout: str | Annotated[int, Gt(0)] = "test",
        field: str = "text",
        begins: str | None = None,
        tokens: Annotated[int, Gt(0)] | None = None,
    ):
        self.path, self.config, self.revision = path, config, revision
        self.train, self.validation, self.heldout = train, validation, heldout
        self.field, self.begins, self.limit = field, begins, tokens

    def documents(self, split: SplitName) -> Iterator[str]:
        validation = self.validation if isinstance(self.validation, int) else 0
        heldout = self.heldout if isinstance(self.heldout, int) else 0
        if split == "validation" and isinstance(self.validation, str):
            return self._read(self.validation)
        if split == "heldout" and isinstance(self.heldout, str):
            return self._read(self.heldout)
        borders: dict[str, tuple[int, int | None]] = {
            "validation": (0, validation),
            "heldout": (validation, validation + heldout),
            "train": (validation + heldout, None),
        }
        return islice(self._read(self.train), *borders[split])

    def manifest(self) -> str:
        chosen = [self.path, self.config, self.train, self.validation, self.heldout, self.field, self.begins]
        text = json.dumps([*chosen, self.limit, self.commit])
        return hashlib.sha256(text.encode()).hexdigest()

    def change_stamp(self) -> Any:
        return self.commit

    @cached_property
    def commit(self) -> str:
        """The commit that the revision names today. Raises DataError, NetworkError."""
        if re.fullmatch("[0-9a-f]{40}", self.revision):
            return self.revision
        from huggingface_hub import HfApi

        with self._explained():
            found = HfApi().dataset_info(self.path, revision=self.revision, timeout=30).sha
        return str(found)

    def _read(self, split: str) -> Iterator[str]:
        rows = self._rows(split)
        return join_rows(rows, re.compile(self.begins)) if self.begins else (row for row in rows if row)

    def _rows(self, split: str) -> Iterator[str]:
        from datasets import load_dataset

        with self._explained():
            rows = load_dataset(self.path, self.config, split=split, revision=self.commit, streaming=True)
            for number, row in enumerate(rows):
                if not isinstance(row.get(self.field), str):
                    there = ", ".join(row)
                    raise DataError(
                        f"hub: {self.path} {split}, row {number}: no text {self.field!r}; there is {there}"
                    )
                yield row[self.field]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what a failure of the hub means for the user."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except DataError:
            raise
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 500)
            if status < 500 and status != 429:
                raise DataError(f"hub: {self.path!r} at {self.revision!r}: {error}") from error
            raise NetworkError(
                f"hub: the hub does not answer for {self.path!r} ({error}); {LOCAL}"
            ) from error
        except FileNotFoundError as error:
            raise DataError(f"hub: {self.path!r}: {error}") from error
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(CLIENTS):
                raise DataError(
                    f"hub: {self.path!r}: {error}"
                ) from error  # no such config or split, bad files
            raise NetworkError(f"hub: no network to reach {self.path!r} ({error}); {LOCAL}") from error


def join_rows(rows: Iterator[str], begins: re.Pattern[str]) -> Iterator[str]:
    """Rows to documents: a row that matches begins the next one."""
    document: list[str] = []
    for row in rows:
        if begins.match(row) and document:
            yield "".join(document)
            document = []
        if row:
            document.append(row)
    if document:
        yield "".join(document)
