"""A tokenizer from a file of `tokenizers`, used as it is."""

import hashlib
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ablate.data.tokenizer import TokenizerError, read_tokenizer_json
from ablate.data.tokenizer.library import FILE, Library, read_tokenizer
from ablate.registry import tokenizer

log = logging.getLogger("ablate.data")


@tokenizer("saved", paper="https://huggingface.co/docs/tokenizers")
class Saved(Library):
    """Any tokenizer.json of the `tokenizers` library: `path` is the file, or the folder that holds it.

    `end` is the token that ends a document; null: the `eos_token` of the tokenizer_config.json beside it.
    """

    learned = False

    def __init__(self, *, path: str, end: str | None = None):
        self._path, self._end = Path(path), end

    @property
    def file(self) -> Path:
        return self._path / FILE if self._path.is_dir() else self._path

    def recipe(self) -> Any:
        if not self.file.is_file():
            raise TokenizerError(f"saved: there is no file {self.file}")
        return {
            "saved": 1,
            "file": hashlib.sha256(self.file.read_bytes()).hexdigest(),
            "end": self._end_of_document(),
        }

    def learn(self, texts: Iterator[str]) -> None:
        self._know(read_tokenizer(self.file), self._end_of_document())
        for text in islice(texts, 20):
            if self.decode(self.encode([text])[0]) != text:
                log.warning(
                    "saved: %s does not give back the text it was given; losses are of what it kept",
                    self.file,
                )
                return

    def _end_of_document(self) -> str:
        config = self.file.with_name("tokenizer_config.json")
        if self._end is None and config.is_file():
            match read_tokenizer_json(config):
                case {"eos_token": str(token) | {"content": str(token)}} if token:
                    return token
        if self._end is None:
            raise TokenizerError(
                f"saved: {config} names no eos_token; say data.tokenizer.end=<token that ends a document>"
            )
        return self._end
