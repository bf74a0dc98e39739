"""Each character of the training text is a token."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ablate.data.tokenizer import Portable, Tokenizer, TokenizerError, read_tokenizer_json
from ablate.record import atomic
from ablate.registry import tokenizer

_END = "<|end|>"  # how other programs write the end token


@tokenizer("characters", paper="https://github.com/karpathy/char-rnn")
class Characters(Tokenizer):
    """Every character of the training split is a token, in the order of code points.

    A character that training never saw is an error: there is no honest loss for it. `end`: whether a last
    token ends documents (nanoGPT's has none).
    """

    FILE = "characters.json"

    def __init__(self, *, end: bool = True):
        self._has_end = end

    def recipe(self) -> Any:
        return {"characters": 1, "end": self._has_end}

    def learn(self, texts: Iterator[str]) -> None:
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        self._know(sorted(seen))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        number = self._number
        try:
            return [[number[character] for character in text] for text in texts]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"characters: {character!r} (U+{ord(character):04X}) is not in the training split; "
                "use data/tokenizer=bytes or bpe, or other shares for the splits"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._characters[i] for i in ids if i != self.end)

    def hash(self) -> str:
        return hashlib.sha256(self._text().encode()).hexdigest()

    def portable(self) -> Portable:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

        model = Tokenizer(models.WordLevel(self._number))
        model.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        model.decoder = decoders.Fuse()
        if not self._has_end:
            return Portable(model.to_str(), None)
        model.add_special_tokens([AddedToken(_END, normalized=False)])
        return Portable(model.to_str(), _END)

    def save(self, folder: Path) -> None:
        with atomic(folder / self.FILE) as file:
            file.write(self._text().encode())

    def load(self, folder: Path) -> None:
        match read_tokenizer_json(folder / self.FILE):
            case {"characters": [str(), *_] as characters, "end": end} if end == self._has_end:
                self._know(characters)
            case {"characters": [str(), *_], "end": bool(end)}:
                raise TokenizerError(f"characters: {folder / self.FILE} was saved with end: {end}")
            case _:
                raise TokenizerError(f"characters: {folder / self.FILE} is damaged: it holds no characters")

    def _know(self, characters: list[str]) -> None:
        if not characters:
            raise TokenizerError("characters: the training split has no text to take characters from")
        self._characters = characters
        self._number = {character: n for n, character in enumerate(characters)}
        self.end = len(characters) if self._has_end else None
        self.vocab = len(characters) + self._has_end

    def _text(self) -> str:
        return json.dumps({"characters": self._characters, "end": self._has_end})
