"""Each byte of UTF-8 is a token."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.tokenizer import Portable, Tokenizer
from ablate.registry import tokenizer

_END = "<|end|>"  # how other programs write the token 256


@tokenizer("bytes", paper="arXiv:2105.13626")
class Bytes(Tokenizer):
    """UTF-8 bytes are the tokens 0 to 255; 256 ends a document."""

    vocab = 257
    end = 256
    learned = False

    def recipe(self) -> Any:
        return {"bytes": 1}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 become the replacement character."""
        return bytes(i for i in ids if i != self.end).decode(errors="replace")

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe()).encode()).hexdigest()

    def portable(self) -> Portable:
        """Byte-pair encoding without merges: each byte is the token of its number."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        # the letters that stand for bytes there, in the order of bytes: printable ones are themselves
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = iter(range(256, 512))
        letters = [chr(byte if byte in plain else next(others)) for byte in range(256)]
        model = Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(letters)}, []))
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        model.add_special_tokens([AddedToken(_END, normalized=False)])
        return Portable(model.to_str(), _END)

    def save(self, folder: Path) -> None:
        pass  # nothing to remember

    def load(self, folder: Path) -> None:
        pass
