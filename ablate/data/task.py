"""Examples that a rule makes: tasks with known answers, and no download.

A source of this kind writes an example as the `symbols` tokenizer reads it: numbers with spaces between, and
`=` before those that are answers.
"""

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.data.source import SPLITS, DataError, Source, SplitName
from ablate.data.tokenizer.symbols import ANSWER

_SHARE: Mapping[SplitName, int] = {"train": 8, "validation": 1, "heldout": 1}  # of all possible examples
TRIES = 2000  # a split with a tenth of very many examples needs more once in 10 ** 91


class Example(NamedTuple):
    """A generated example: its tokens, and which of them are answers."""

    tokens: list[int]
    answers: list[int]  # the places of the answers among the tokens, ascending


class Generated(Source):
    """An example is a function of (options, split, index). No example stands in two splits: a hash of the
    tokens says to which of them it may go, and a draw that belongs elsewhere is drawn again.

    Raises DataError where so few examples are possible that a split gets none.
    """

    def __init__(self, *, seed: int, train: int, validation: int, heldout: int):
        self.seed = seed
        self.sizes: dict[SplitName, int] = {"train": train, "validation": validation, "heldout": heldout}

    @abstractmethod
    def draw(self, split: SplitName, index: int, random: np.random.Generator) -> Example:
        """One example. What is tied to the index is the same however often it is drawn again."""

    def example(self, split: SplitName, index: int) -> Example:
        for attempt in range(TRIES):
            random = np.random.default_rng([self.seed, SPLITS.index(split), index, attempt])
            made = self.draw(split, index, random)
            if split_of(made) == split:
                return made
        raise DataError(
            f"data: {TRIES} draws of example {index} gave none for the {split} split: with these options too "
            "few are possible. Raise data.source.vocab or the length of the examples"
        )

    def documents(self, split: SplitName) -> Iterator[str]:
        return (written(self.example(split, index)) for index in range(self.sizes[split]))

    def change_stamp(self) -> Any:
        """What, with the options, decides the examples."""
        files = (Path(__file__), Path(inspect.getfile(type(self))))
        return [np.__version__, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]


def written(example: Example) -> str:
    """An example as a line of text, with its answers marked."""
    answers = set(example.answers)
    return " ".join(
        f"{ANSWER}{token}" if n in answers else str(token) for n, token in enumerate(example.tokens)
    )


def split_of(example: Example) -> SplitName:
    """Eight tenths of all possible examples are for training, a tenth for each other split."""
    content = ",".join(map(str, example.tokens)).encode()
    place = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % sum(_SHARE.values())
    for split, share in _SHARE.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("shares add up")
