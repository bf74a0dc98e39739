"""What a token is. One file for each tokenizer; this page is what a tokenizer must do."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.errors import AblateError


class Portable(NamedTuple):
    """A tokenizer for other programs: the text of a tokenizer.json, and its token that ends a document."""

    text: str
    end: str | None


MOST = 2**24  # tokens of a vocabulary: far beyond any, and what memory still holds


class TokenizerError(AblateError, ValueError):
    """A tokenizer that cannot be made or used, with the reason and what to do."""


class Tokenizer(ABC):
    """Text to numbers below `vocab` and back. It knows its vocabulary after `learn` or `load`."""

    vocab: int
    end: int | None  # the token that stands after each document; None: there is none
    has_text: bool = True  # whether what it decodes is text, whose bytes a loss may be divided by
    learned: bool = True  # whether the training text decides the vocabulary, beside the recipe

    @abstractmethod
    def recipe(self) -> Any:
        """Plain JSON that, with the training text, decides the vocabulary. No path."""

    def learn(self, texts: Iterator[str]) -> None:  # noqa: B027  (nothing to learn is a choice)
        """Make the vocabulary, from the training text where it comes from text (long documents in pieces)."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without end tokens. Text that looks like a special token stays text."""

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same numbers as `encode`, as an array (tokens,) of integers for each text."""
        return [np.asarray(ids, dtype=np.int64) for ids in self.encode(texts)]

    def loss_mask(self, text: str) -> list[bool] | None:
        """Which tokens of a document are answers. They alone have a loss, and the document is an example: a
        row of its own. None: the document is text, and every token has a loss."""
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; end tokens are left out."""

    @abstractmethod
    def hash(self) -> str:
        """SHA-256 (hex) of what decides its tokens."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it as JSON."""

    def portable(self) -> "Portable":
        """The same tokens as the `tokenizers` library has them. Raises TokenizerError where it cannot."""
        raise TokenizerError(f"{type(self).__name__}: this tokenizer cannot be written as tokenizer.json")

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises TokenizerError."""


def read_tokenizer_json(file: Path) -> Any:
    """Raises TokenizerError for what is no JSON, or too deep."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise TokenizerError(f"tokenizer: {file} is damaged: it is no JSON ({error})") from error


def first_bytes(texts: Iterator[str], limit: int) -> Iterator[str]:
    """Texts until they hold `limit` bytes; the last one may pass it."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return
