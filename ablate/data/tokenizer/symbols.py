"""Numbers in text stand for themselves: for generated examples."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from ablate.data.tokenizer import MOST, Portable, Tokenizer, TokenizerError
from ablate.registry import tokenizer

ANSWER = "="


@tokenizer("symbols", paper="arXiv:2312.04927")
class Symbols(Tokenizer):
    """Numbers below `vocab`, with spaces between: each is the token of its number. `=7` is the token 7 as an
    answer.

    A document is an example of a task: it is a row of its own, and its answers alone have a loss. No end
    token is added.
    """

    end = None
    has_text = False
    learned = False

    def __init__(self, *, vocab: Annotated[int, Ge(2), Le(MOST)] = 8192):
        self.vocab = vocab

    def recipe(self) -> Any:
        return {"symbols": 1, "vocab": self.vocab}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        number = self._number
        try:
            return [[number[word] for word in text.split()] for text in texts]
        except KeyError as error:
            raise TokenizerError(
                f"symbols: {error.args[0]!r} is no number of 0..{self.vocab - 1}, nor one after '{ANSWER}'"
            ) from None

    def loss_mask(self, text: str) -> list[bool]:
        return [word[0] == ANSWER for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """The numbers; what was an answer is no longer marked."""
        return " ".join(map(str, ids))

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe()).encode()).hexdigest()

    def portable(self) -> Portable:
        """The mark of an answer is left out when a text is read, since it changes no token."""
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        model = Tokenizer(models.WordLevel({str(n): n for n in range(self.vocab)}))
        model.normalizer = normalizers.Replace(Regex(rf"\B{ANSWER}(?=\d)"), "")
        model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return Portable(model.to_str(), None)

    def save(self, folder: Path) -> None:
        pass  # nothing to remember

    def load(self, folder: Path) -> None:
        pass

    @cached_property
    def _number(self) -> dict[str, int]:
        """Of each word that there may be. No other way of writing a number is known."""
        return {mark + str(n): n for n in range(self.vocab) for mark in ("", ANSWER)}
