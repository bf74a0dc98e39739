"""Multi-query associative recall: keys and values, then keys to be answered."""

from functools import lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, MinLen

from ablate.data.source import DataError, SplitName
from ablate.data.task import Example, Generated
from ablate.registry import source

FILLER = 0


@source("mqar", paper="arXiv:2312.04927")
class Mqar(Generated):
    """Multi-query associative recall: `k1 v1 k2 v2 .. 0 0 k2 =v2 0 0 k1 =v1 0`, each key asked for once.

    `shapes` are (tokens, pairs), which take turns. Keys are numbers from 1 below vocab / 2, values those from
    there; both differ within an example. The query of each pair begins at an even distance 2 g after the
    pairs, g drawn without repetition with p(g) ~ (g + 1)^(power_a - 1). `random_filler` puts random tokens,
    but no key of the example, where else 0 stands.

    Ours differs: the answer follows its query, as in text; in Zoology filler follows it.
    """

    def __init__(
        self,
        *,
        vocab: Annotated[int, Ge(4)] = 8192,
        shapes: Annotated[tuple[tuple[int, int], ...], MinLen(1)] = ((64, 4),),
        power_a: Annotated[float, Gt(0)] = 0.01,
        random_filler: bool = False,
        seed: Annotated[int, Ge(0)] = 0,
        train: Annotated[int, Ge(1)] = 100_000,
        validation: Annotated[int, Ge(1)] = 3000,
        heldout: Annotated[int, Ge(1)] = 3000,
    ):
        super().__init__(seed=seed, train=train, validation=validation, heldout=heldout)
        self.vocab, self.shapes, self.power_a, self.random_filler = vocab, shapes, power_a, random_filler
        self.keys = vocab // 2  # the first that is a value
        for tokens, pairs in shapes:
            self._check(tokens, pairs)

    def draw(self, split: SplitName, index: int, random: np.random.Generator) -> Example:
        tokens, pairs = self.shapes[index % len(self.shapes)]
        keys = 1 + random.choice(self.keys - 1, pairs, replace=False)
        values = self.keys + random.choice(self.vocab - self.keys, pairs, replace=False)
        row = np.full(tokens, FILLER)
        if self.random_filler:
            row = random.choice(np.setdiff1d(np.arange(self.vocab), keys), tokens)
        gaps = gap_chances((tokens - 2 * pairs) // 2, self.power_a)
        query = 2 * pairs + 2 * random.choice(len(gaps), pairs, replace=False, p=gaps)
        row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2] = keys, values
        row[query], row[query + 1] = keys, values
        return Example(row.tolist(), sorted((query + 1).tolist()))

    def _check(self, tokens: int, pairs: int) -> None:
        """Raises DataError for a shape that cannot be."""
        said = f"mqar: data.source.shapes has [{tokens}, {pairs}]"
        if pairs < 1:
            raise DataError(f"{said}: an example needs a pair or more")
        if 4 * pairs > tokens:
            raise DataError(f"{said}: {pairs} pairs and their queries take {4 * pairs} tokens")
        if pairs > self.keys - 1:
            raise DataError(
                f"{said}: a vocab of {self.vocab} has {self.keys - 1} keys; raise data.source.vocab to "
                f"{2 * (pairs + 1)} or more"
            )


@lru_cache(maxsize=64)
def gap_chances(places: int, power_a: float) -> np.ndarray:
    """(places,) p(g) ~ (g + 1)^(power_a - 1)."""
    weight = np.arange(1, places + 1) ** (power_a - 1.0)
    p: np.ndarray = weight / weight.sum()
    return p
