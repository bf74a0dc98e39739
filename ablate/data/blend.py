"""The rows of a mixture: each row is of one source, and the sources take turns by their weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablate.data.prepare import Prepared
from ablate.data.source.mixture import ROWS_IN_BLOCK
from ablate.data.stream import AHEAD, Batch, Stream, keys, mix, refuse, share
from ablate.spec import RunSpec

UNIT = 2.0**-64


class RowPlaces(NamedTuple):
    """Where rows come from, all (N,): the number of the source, and what its stream reads there."""

    source: np.ndarray
    position: np.ndarray
    window: np.ndarray
    shift: np.ndarray


class Blend:
    """Batches of several streams, without state: a batch is a function of (seed, step) alone, as of a Stream.

    In each block of ROWS_IN_BLOCK rows, the j-th of a source's m rows stands at (j + u) / m of the block, u
    drawn evenly from [0, 1): every source is spread evenly over each batch, and its number in a block is
    exact. A source takes its own windows in its own order, epoch by epoch, however often the others have
    their turn.
    (Megatron-LM also spreads rows evenly, by always taking the source that is furthest behind.)
    """

    def __init__(self, streams: Mapping[str, Stream], rows: Mapping[str, int], seed: int):
        self.streams, self.seed = list(streams.values()), seed
        self.rows = np.array([rows[name] for name in streams])
        if self.rows.sum() != ROWS_IN_BLOCK or (self.rows < 1).any():
            raise ValueError(f"data: the rows of {', '.join(streams)} do not add up to {ROWS_IN_BLOCK}")
        self._order, self._found = lru_cache(maxsize=2)(self._ordered), lru_cache(maxsize=1)(self._places)

    def batch(self, step: int, rows: int, of: tuple[int, int] = (0, 1)) -> Batch:
        """As `Stream.batch`."""
        mine, first = share(rows, of), step % AHEAD * rows
        here = slice(first + mine.start, first + mine.stop)
        places = RowPlaces(*(each[here] for each in self._found(step // AHEAD, rows)))
        parts = []
        for number, stream in enumerate(self.streams):
            chosen = np.flatnonzero(places.source == number)
            if len(chosen):
                taken = (each[chosen] for each in places[1:])
                parts.append((torch.from_numpy(chosen), stream.read(*taken)))
        return together(parts)

    def _places(self, block: int, rows: int) -> RowPlaces:
        """Of the rows of AHEAD steps."""
        row = np.arange(block * AHEAD * rows, (block + 1) * AHEAD * rows)
        source, position, window, shift = np.empty((4, len(row)), dtype=np.int64)
        for number in np.unique(row // ROWS_IN_BLOCK):
            chosen = row // ROWS_IN_BLOCK == number
            of_block, index = self._order(int(number))
            source[chosen] = of_block[row[chosen] % ROWS_IN_BLOCK]
            position[chosen] = number * self.rows[source[chosen]] + index[row[chosen] % ROWS_IN_BLOCK]
        for number, stream in enumerate(self.streams):
            chosen = source == number
            window[chosen], shift[chosen] = stream.places(position[chosen])
        return RowPlaces(source, position, window, shift)

    def _ordered(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each row of a block: the number of its source, and how many rows of that source come before."""
        source = np.repeat(np.arange(len(self.rows)), self.rows)
        index = np.concatenate([np.arange(rows) for rows in self.rows])
        drawn = mix(np.arange(ROWS_IN_BLOCK, dtype=np.uint64) + keys(self.seed, block, "mixture")[0])
        order = np.argsort((index + drawn * UNIT) / self.rows[source], kind="stable")
        return source[order], index[order]


def together(parts: list[tuple[Tensor, Batch]]) -> Batch:
    """One batch of the rows of several, each with the places of its rows (n,)."""
    if len(parts) == 1:
        return parts[0][1]
    first, rows = parts[0][1], sum(len(places) for places, _ in parts)

    def of_all(field: str) -> Tensor | None:
        one: Tensor | None = getattr(first, field)
        if one is None or (field == "positions" and first.document is None):  # the same for all rows
            return one
        whole = one.new_empty((rows, *one.shape[1:]))
        for places, batch in parts:
            whole[places] = getattr(batch, field)
        return whole

    return Batch(*(of_all(field) for field in Batch._fields))  # type: ignore[arg-type]


def training_stream(prepared: Prepared, spec: RunSpec) -> Stream | Blend:
    """What a run learns from. Raises ValueError as `Stream`."""
    seed = spec.seed.data
    if not prepared.ingredients:
        return _stream(prepared, "", spec, seed)
    streams = {
        name: _stream(prepared, name, spec, int(keys(seed, 0, f"source {name}")[0] >> np.uint64(1)))
        for name in prepared.ingredients
    }
    return Blend(streams, {name: each.rows for name, each in prepared.ingredients.items()}, seed)


def _stream(prepared: Prepared, name: str, spec: RunSpec, seed: int) -> Stream:
    splits = prepared.ingredients[name].splits if name else prepared.splits
    return Stream(splits["train"], spec.model.context, spec.data.documents, seed, spec.data.prefix)


def epochs(prepared: Prepared, spec: RunSpec) -> dict[str, float]:
    """How often a run reads the training text of each source of a mixture; of a single one, whose name is
    empty, alone. Raises ValueError as `Stream`."""
    rows = spec.steps * spec.rows
    if not prepared.ingredients:
        return {"": rows / _stream(prepared, "", spec, 0).windows}
    return {
        name: rows * each.rows / ROWS_IN_BLOCK / _stream(prepared, name, spec, 0).windows
        for name, each in prepared.ingredients.items()
    }


def refuse_text(prepared: Prepared, spec: RunSpec) -> None:
    """Raises ValueError where a run finds nothing to learn, or to be looked at, in some text of its own, and
    where it would read a source of a mixture too often."""
    for name, each in prepared.ingredients.items() or [("", prepared)]:
        try:
            refuse(each.splits, spec)
        except ValueError as error:
            raise ValueError(f"source {name}: {error}" if name else str(error)) from None
    for name, splits in prepared.sets.items():
        try:
            Stream(splits["validation"], spec.model.context, spec.data.documents, 0, spec.data.prefix)
        except ValueError as error:
            raise ValueError(f"data.sets.{name}: {error}") from None
    most: float | None = getattr(spec.data.source, "most_epochs", None)
    if most is None:
        return
    often = {name: times for name, times in epochs(prepared, spec).items() if times > most}
    if often:
        said = ", ".join(f"{name} {times:.1f} times" for name, times in often.items())
        raise ValueError(
            f"data.source.most_epochs: the run would read {said}, and may {most:g} times; lower the weight, "
            "give more text or fewer budget.tokens, or raise data.source.most_epochs (null: no bound)"
        )
