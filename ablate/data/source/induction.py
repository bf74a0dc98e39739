"""Pairs that occur twice: the second time the first half predicts the other."""

from typing import Annotated

import numpy as np
from annotated_types import Ge

from ablate.data.source import SplitName
from ablate.data.task import Example, Generated
from ablate.registry import source


@source("induction", paper="arXiv:2209.11895")
class Induction(Generated):
    """Induction: `.. a b .. a =b`. The last token that is read stands once before, and the answer is what
    followed it there.

    `tokens` are read; the answer is one more. All but the repeated symbol may repeat, so only a look at what
    stands before each token finds the place.
    """

    def __init__(
        self,
        *,
        vocab: Annotated[int, Ge(3)] = 20,
        tokens: Annotated[int, Ge(3)] = 30,
        seed: Annotated[int, Ge(0)] = 0,
        train: Annotated[int, Ge(1)] = 100_000,
        validation: Annotated[int, Ge(1)] = 3000,
        heldout: Annotated[int, Ge(1)] = 3000,
    ):
        super().__init__(seed=seed, train=train, validation=validation, heldout=heldout)
        self.vocab, self.tokens = vocab, tokens

    def draw(self, split: SplitName, index: int, random: np.random.Generator) -> Example:
        key = int(random.integers(self.vocab))
        others = random.integers(self.vocab - 1, size=self.tokens - 1)
        row = (others + (others >= key)).tolist()  # any symbol but the key
        place = int(random.integers(self.tokens - 2))  # something other than the key's repetition follows
        row[place] = key
        return Example([*row, key, row[place + 1]], [self.tokens])
