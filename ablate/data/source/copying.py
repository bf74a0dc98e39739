"""Text to be copied after a separator, made and not read."""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from ablate.data.source import DataError, SplitName
from ablate.data.task import Example, Generated
from ablate.registry import source

BEGIN, END, FIRST = 0, 1, 2  # tokens: `now say it`, `that was all`, and the first symbol


@source("copy", paper="arXiv:2305.19466")
class Copy(Generated):
    """Copy, or reverse: `5 3 7 0 =5 =3 =7 =1`, or `5 3 7 0 =7 =3 =5 =1`. 0 asks for it and 1 ends it.

    n symbols make 2 n + 2 tokens with n + 1 answers. `trained` are the least and the greatest n of training
    and validation, `tested` those of the held-out split; all between take turns. Symbols are drawn with
    repetition from the vocab - 2 that are left.
    """

    def __init__(
        self,
        *,
        order: Literal["same", "reversed"] = "same",
        vocab: Annotated[int, Ge(3)] = 64,
        trained: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 20),
        tested: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 40),
        seed: Annotated[int, Ge(0)] = 0,
        train: Annotated[int, Ge(1)] = 100_000,
        validation: Annotated[int, Ge(1)] = 2000,
        heldout: Annotated[int, Ge(1)] = 4000,
    ):
        super().__init__(seed=seed, train=train, validation=validation, heldout=heldout)
        for name, (least, most) in (("trained", trained), ("tested", tested)):
            if least > most:
                raise DataError(
                    f"copy: data.source.{name}: the least length {least} is above the greatest, {most}"
                )
        self.order, self.vocab, self.trained, self.tested = order, vocab, trained, tested

    def draw(self, split: SplitName, index: int, random: np.random.Generator) -> Example:
        least, most = self.tested if split == "heldout" else self.trained
        length = least + index % (most - least + 1)
        symbols = random.integers(FIRST, self.vocab, size=length).tolist()
        said = symbols if self.order == "same" else symbols[::-1]
        return Example([*symbols, BEGIN, *said, END], list(range(length + 1, 2 * length + 2)))
