"""Several sources as one, by weights; what a tokenizer that they share learns from."""

import heapq
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any

from annotated_types import Gt, MinLen

from ablate.data.source import SPLITS, DataError, Source, SplitName
from ablate.data.tokenizer import first_bytes
from ablate.registry import Factory, Part, source
from ablate.spec import SetName

ROWS_IN_BLOCK = 10_000  # rows of training among which each source has its exact number


@source("mixture", paper="arXiv:2305.10429")
class Mixture(Source):
    """Several sources, each with its share of the training tokens (the domain weights of Xie et al. 2023).

    `weights` have any sum; null: each source counts as many tokens as it has. Of each 10,000 rows of training
    a source has its exact number, spread evenly. A mixture in which a source would be read more than
    `most_epochs` times is refused (four times cost little: Muennighoff et al. 2023, arXiv:2305.16264); null:
    none is. Every source is tokenised once, by one tokenizer. One that is learned reads all sources in equal
    parts, whatever the weights.

    The loss on validation and held-out is that of all sources' tokens; each source is also a set of its own.
    Sources of generated examples cannot be mixed.
    """

    def __init__(
        self,
        *,
        sources: Annotated[dict[SetName, Annotated[Factory, Part("source")]], MinLen(2)],
        weights: dict[str, Annotated[float, Gt(0)]] | None = None,
        most_epochs: Annotated[float, Gt(0)] | None = 4.0,
    ):
        self.sources: dict[str, Source] = {name: make() for name, make in sorted(sources.items())}
        self.weights, self.most_epochs = weights, most_epochs
        inside = [name for name, each in self.sources.items() if isinstance(each, Mixture)]
        if inside:
            raise DataError(f"mixture: data.source.sources.{inside[0]} is a mixture; name its sources here")
        if weights is not None and weights.keys() != self.sources.keys():
            odd = ", ".join(sorted(weights.keys() ^ self.sources.keys()))
            raise DataError(f"mixture: data.source.weights: {odd} stands in only one of sources and weights")

    def documents(self, split: SplitName) -> Iterator[str]:
        """Those of all sources, in turn."""
        return taking_turns(each.documents(split) for each in self.sources.values())

    def change_stamp(self) -> Any:
        stamps = {name: each.change_stamp() for name, each in self.sources.items()}
        return None if None in stamps.values() else stamps

    def rows(self, tokens: Mapping[str, int]) -> dict[str, int]:
        """How many of ROWS_IN_BLOCK rows each source has, where its training split has so many tokens. Raises
        DataError for a source without any."""
        found = apportioned(tokens if self.weights is None else self.weights)
        for name, rows in found.items():
            if not rows:
                raise DataError(
                    f"mixture: data.source.weights: {name} has less than 1/{ROWS_IN_BLOCK:,} of the tokens; "
                    "give it more, or leave it out"
                )
        return found


class Vocabulary(Source):
    """What a tokenizer learns from where several sources share it: their training text, and no split."""

    absent = SPLITS

    def __init__(self, sources: Mapping[str, Source]):
        self.sources = sources

    def documents(self, split: SplitName) -> Iterator[str]:
        """The training text of all sources, in turn; of one that keeps a limited number of tokens no more
        than these can have."""
        return taking_turns(
            each.documents("train")
            if each.limit is None
            else first_bytes(each.documents("train"), 4 * each.limit)  # a character has 4 bytes at most
            for each in self.sources.values()
        )

    def every(self) -> Iterator[tuple[SplitName, str]]:
        return iter(())

    def change_stamp(self) -> Any:
        stamps = [each.change_stamp() for each in self.sources.values()]
        return None if None in stamps else stamps


def taking_turns(sources: Iterator[Iterator[str]]) -> Iterator[str]:
    """The next document is always of the source that has given the fewest bytes so far."""
    waiting = [(0, number, documents) for number, documents in enumerate(sources)]
    while waiting:
        given, number, documents = heapq.heappop(waiting)
        text = next(documents, None)
        if text is not None:
            yield text
            heapq.heappush(waiting, (given + len(text.encode()), number, documents))


def apportioned(weights: Mapping[str, float]) -> dict[str, int]:
    """The rows of a block, dealt out by weight: whole parts first, then the largest remainders (Hamilton's
    method). The sum of the weights is no matter."""
    exact = {name: Fraction(str(weight)) for name, weight in sorted(weights.items())}
    total = sum(exact.values())
    quotas = {name: ROWS_IN_BLOCK * weight / total for name, weight in exact.items()}
    rows = {name: int(quota) for name, quota in quotas.items()}
    largest = sorted(quotas, key=lambda name: (rows[name] - quotas[name], name))
    for name in largest[: ROWS_IN_BLOCK - sum(rows.values())]:
        rows[name] += 1
    return rows
