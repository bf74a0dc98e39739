"""What tokenizers that `tokenizers` keeps in a file have in common."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.data.tokenizer import MOST, Portable, Tokenizer, TokenizerError, read_tokenizer_json
from ablate.record import atomic

if TYPE_CHECKING:
    import tokenizers

FILE, END_FILE = "tokenizer.json", "end.json"


class Library(Tokenizer):
    """A tokenizer that the `tokenizers` library runs and writes as tokenizer.json."""

    @property
    def end_token(self) -> str:
        """The token that ends a document, as it is written."""
        return self._end_token

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode([i for i in ids if i != self.end], skip_special_tokens=True)

    def hash(self) -> str:
        return hashlib.sha256(json.dumps([self._end_token, self._text()]).encode()).hexdigest()

    def portable(self) -> Portable:
        """Without the tokens that the tokenizer would add around a text: training has not seen them."""
        whole = json.loads(self._text())
        if (whole.get("post_processor") or {}).get("type") != "ByteLevel":
            whole["post_processor"] = None
        return Portable(json.dumps(whole, ensure_ascii=False), self._end_token)

    def save(self, folder: Path) -> None:
        for name, text in {FILE: self._text(), END_FILE: json.dumps(self._end_token)}.items():
            with atomic(folder / name) as file:
                file.write(text.encode())

    def load(self, folder: Path) -> None:
        end = read_tokenizer_json(folder / END_FILE)
        if not isinstance(end, str):
            raise TokenizerError(f"tokenizer: {folder / END_FILE} is damaged: it names no token")
        self._know(read_tokenizer(folder / FILE), end)

    def _text(self) -> str:
        return self._model.to_str(pretty=False)

    def _know(self, model: "tokenizers.Tokenizer", end: str) -> None:
        number = model.token_to_id(end)
        if number is None:
            raise TokenizerError(f"tokenizer: {end!r}, which is to end documents, is not one of its tokens")
        model.encode_special_tokens = True  # an end token spelled out in a text is text
        model.no_truncation()
        model.no_padding()
        self._model, self._end_token = model, end
        self.end = number
        self.vocab = 1 + max(model.get_vocab(with_added_tokens=True).values())
        if self.vocab > MOST:
            raise TokenizerError(
                f"tokenizer: its tokens are numbered up to {self.vocab - 1}; {MOST - 1} is the most"
            )


def read_tokenizer(file: Path) -> "tokenizers.Tokenizer":
    """Raises TokenizerError."""
    import tokenizers

    if not file.is_file():
        raise TokenizerError(f"tokenizer: there is no file {file}")
    try:
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and panics that are not even that
        raise TokenizerError(f"tokenizer: {file} is no tokenizer.json ({error})") from error
