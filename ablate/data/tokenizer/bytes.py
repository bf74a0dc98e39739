import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.data.tokenizer import Tokenizer
from ablate.registry import tokenizer


@tokenizer("bytes", paper="arXiv:2105.13626")
class Bytes(Tokenizer):
    """UTF-8 bytes are the tokens 0 to 255; 256 ends a document."""

    vocab = 257
    end = 256

    def recipe(self) -> Any:
        return {"bytes": 1}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 become the replacement character."""
        return bytes(i for i in ids if i != self.end).decode(errors="replace")

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe()).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        pass  # nothing to remember

    def load(self, folder: Path) -> None:
        pass
