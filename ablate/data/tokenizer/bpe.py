"""Byte-pair encoding, learned on the training text."""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from annotated_types import Ge, Le

from ablate.data.tokenizer import MOST, TokenizerError, first_bytes
from ablate.data.tokenizer.library import Library
from ablate.registry import tokenizer

END_OF_TEXT = "<|end|>"


@tokenizer("bpe", paper="arXiv:1508.07909")
class Bpe(Library):
    """Byte-pair encoding over bytes (Radford et al. 2019, section 2.2), learned from the training split.

    `vocab` counts the 256 bytes and the end token; little text may yield fewer. It learns from the first
    `sample` bytes of text.
    """

    def __init__(
        self, *, vocab: Annotated[int, Ge(257), Le(MOST)] = 4096, sample: Annotated[int, Ge(1)] = 100_000_000
    ):
        self._wanted, self._sample = vocab, sample

    def recipe(self) -> Any:
        return {"bpe": 1, "vocab": self._wanted, "sample": self._sample}

    def learn(self, texts: Iterator[str]) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        first = next(texts, None)
        if first is None:
            raise TokenizerError("bpe: the training split has no text to learn from")
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self._wanted,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(first_bytes(chain([first], texts), self._sample), trainer)
        self._know(model, END_OF_TEXT)
