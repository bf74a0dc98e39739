"""Tokens to batches, without state: a batch is a function of (seed, step) alone, whatever the number of
devices and wherever a run was resumed."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablate.data.split import Split
from ablate.spec import RunSpec

_ROUNDS = 8  # with 4, the orders of a small epoch are not equally likely (chi-squared)
AHEAD = 64  # steps whose places in the text are found at once, which costs little more than for one
NO_LOSS = -100
ODD = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Batch(NamedTuple):
    """Letters: B rows, T tokens. All int64, but for `real`."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T) the next token; -100 where there is no loss
    positions: Tensor  # (1, T), or (B, T) where positions restart with each document
    document: Tensor | None = None  # (B, T) who sees whom; None: all tokens of a row are one document
    prefix: Tensor | None = None  # (B,) length of the part that sees itself whole
    real: Tensor | None = None  # (B, T) bool: not filling; None: all tokens are text
    document_index: Tensor | None = (
        None  # (B, T) the document of the split that the target belongs to; -1: no target
    )


class Stream:
    """Batches of one split.

    An epoch takes each window of `context` tokens once, in an order of its own; where the windows lie is
    shifted from epoch to epoch, by less than a window. `documents`: in `joined` text, a row is one stream;
    in `masked` text, documents do not see each other, positions restart with each, and nothing is
    predicted across a border (the end token itself is predicted).

    Where the split marks answers (`scored`), a document is an example, and a row is one example from its
    beginning, whatever `documents` says: an epoch takes each once. Behind its end the row is filled up with
    token 0; only answers are targets.

    With `prefix`, each row begins with a part that sees itself whole and holds no target: its length is drawn
    evenly from 1 to T - 1 in training (Raffel et al. 2020, section 3.2.3), and T / 2 in evaluation batches.

    Raises ValueError if the split holds less than one window and its last target, a longer example, or, in
    masked text, no document of two tokens, which would make no target.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        documents: Literal["joined", "masked"],
        seed: int,
        prefix: bool = False,
    ):
        self.split, self.context, self.documents, self.seed = split, context, documents, seed
        self.prefix, self._found = prefix, lru_cache(maxsize=1)(self._places)
        if prefix and (split.loss_mask is not None or documents == "masked" or context < 2):
            raise ValueError("data: a prefix needs joined text and a context of at least 2")
        if split.loss_mask is not None:
            self._borders = np.append(split.document_offsets, len(split.tokens))
            longest = int(np.diff(self._borders).max())
            if longest > context + 1:
                raise ValueError(
                    f"data: the longest example of the {split.name} split has {longest} tokens, which needs "
                    f"a context of {longest - 1}; model.context is {context}"
                )
            self.windows, self._shifts = len(split.document_offsets), 1
            return
        if len(split.tokens) <= context:
            raise ValueError(
                f"data: the {split.name} split has {len(split.tokens)} tokens, but a context of {context} "
                f"needs at least {context + 1}; give it more text or lower model.context"
            )
        if not self.learns(len(split.tokens)):
            raise ValueError(
                f"data: every document of the {split.name} split has a single token, so with "
                "data.documents=masked nothing is predicted; say data.documents=joined, or take a tokenizer "
                "with an end token"
            )
        targets = len(split.tokens) - 1
        self.windows = max(1, targets // context - 1)  # in one epoch: one fewer than fit, for the shift
        self._shifts = min(context, targets - self.windows * context + 1)

    def learns(self, tokens: int) -> bool:
        """Whether there is a target among the first so many tokens and the one after them."""
        if self.split.loss_mask is not None or self.documents == "joined":
            return True
        last = min(tokens + 1, len(self.split.tokens))
        inside = self.split.document_offsets[: np.searchsorted(self.split.document_offsets, last)]
        return bool((np.diff(inside, append=last) > 1).any())

    def batch(self, step: int, rows: int, of: tuple[int, int] = (0, 1)) -> Batch:
        """What optimizer step `step` learns from: `rows` sequences over all devices, of which rank r of n
        (`of` = (r, n)) gets its share, in order. Raises ValueError if `rows` cannot be shared equally."""
        mine, first = share(rows, of), step % AHEAD * rows
        here = slice(first + mine.start, first + mine.stop)
        position, window, shift = (each[here] for each in self._found(step // AHEAD, rows))
        return self.read(position, window, shift)

    def read(self, position: np.ndarray, window: np.ndarray, shift: np.ndarray) -> Batch:
        """The rows of these positions, of which `places` has found windows and shifts, all (B,)."""
        if self.split.loss_mask is not None:
            return self._examples(window)
        cut = self._cut(window * self.context + shift)
        if not self.prefix:
            return cut
        drawn = mix(position.astype(np.uint64) + keys(self.seed, 0, "prefix")[0])
        return read_ahead(cut, 1 + (drawn % np.uint64(self.context - 1)).astype(np.int64))

    def evaluation_batches(
        self, rows: int, of: tuple[int, int] = (0, 1), by_document: bool = False
    ) -> Iterator[Batch]:
        """Every token of the split but its first (every answer, of examples) is a target once, in order.

        Every batch has `rows` rows over all ranks, so that ranks stay together and shapes stay the same;
        what lies after the end of the split has no loss. `by_document` fills in `owner`.
        """
        mine = share(rows, of)
        examples = self.split.loss_mask is not None
        windows = self.windows if examples else -(-(len(self.split.tokens) - 1) // self.context)
        for first in range(0, windows, rows):
            window = first + np.arange(mine.start, mine.stop)
            if examples:
                yield self._examples(window, by_document)
                continue
            cut = self._cut(window * self.context, by_document)
            yield read_ahead(cut, np.full(len(window), self.context // 2)) if self.prefix else cut

    def _places(self, block: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the rows of AHEAD steps: their numbers, windows, and the shifts of these."""
        position = np.arange(block * AHEAD * rows, (block + 1) * AHEAD * rows)
        return position, *self.places(position)

    def places(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of the rows that are taken at these positions (N,), over all epochs, and the shifts of
        these."""
        window, shift = np.empty((2, len(position)), dtype=np.int64)
        for epoch in np.unique(position // self.windows):
            chosen = position // self.windows == epoch
            window[chosen] = shuffle(position[chosen] % self.windows, self.windows, self.seed, int(epoch))
            shift[chosen] = self._shift(int(epoch))
        return window, shift

    def _shift(self, epoch: int) -> int:
        return int(keys(self.seed, epoch, "shift")[0] % self._shifts)

    def _cut(self, first: np.ndarray, by_document: bool = False) -> Batch:
        """The windows that begin at `first` (B,)."""
        document_offsets, total = self.split.document_offsets, len(self.split.tokens)
        place = first[:, None] + np.arange(self.context + 1)  # (B, T + 1)
        numbers = np.where(place < total, self.split.tokens[np.minimum(place, total - 1)], 0).astype(np.int64)
        tokens, targets = numbers[:, :-1], numbers[:, 1:].copy()
        targets[place[:, 1:] >= total] = NO_LOSS
        if self.documents == "joined" and not by_document:
            return Batch(
                torch.from_numpy(tokens), torch.from_numpy(targets), torch.arange(self.context)[None]
            )
        document = np.searchsorted(document_offsets, place, side="right") - 1  # (B, T + 1)
        document[place >= total] = len(document_offsets)  # what is after the end is a document of its own
        positions, seen = torch.arange(self.context)[None], None
        if self.documents == "masked":
            targets[document[:, 1:] != document[:, :-1]] = NO_LOSS
            begin = np.where(
                place < total, document_offsets[np.minimum(document, len(document_offsets) - 1)], total
            )[:, :-1]
            positions = torch.from_numpy(place[:, :-1] - np.maximum(begin, first[:, None]))
            seen = torch.from_numpy(document[:, :-1].copy())
        document_index = (
            torch.from_numpy(np.where(targets == NO_LOSS, -1, document[:, 1:])) if by_document else None
        )
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            positions,
            seen,
            document_index=document_index,
        )

    def _examples(self, number: np.ndarray, by_document: bool = False) -> Batch:
        """The examples of these numbers (B,), one a row; after the last come rows without targets."""
        assert self.split.loss_mask is not None
        last = len(self._borders) - 1
        first, end = (self._borders[np.minimum(number + n, last)][:, None] for n in (0, 1))  # (B, 1)
        place = first + np.arange(self.context + 1)  # (B, T + 1)
        inside = place < end
        place = np.minimum(place, len(self.split.tokens) - 1)
        numbers = np.where(inside, self.split.tokens[place], 0).astype(np.int64)
        answer = (inside & self.split.loss_mask[place])[:, 1:]
        targets = np.where(answer, numbers[:, 1:], NO_LOSS)
        document_index = torch.from_numpy(np.where(answer, number[:, None], -1)) if by_document else None
        return Batch(
            torch.from_numpy(numbers[:, :-1]),
            torch.from_numpy(targets),
            torch.arange(self.context)[None],
            real=torch.from_numpy(inside[:, :-1].copy()),
            document_index=document_index,
        )


def refuse(splits: Mapping[str, Split], spec: RunSpec) -> None:
    """Raises ValueError where a run finds nothing to learn, or to be looked at, in its text."""
    for name in ("train", "validation"):
        stream = Stream(splits[name], spec.model.context, spec.data.documents, 0, spec.data.prefix)
        look = spec.evaluation.tokens if name == "validation" and spec.evaluation.every else None
        if look is not None and not stream.learns(-(-look // spec.model.context) * spec.model.context):
            raise ValueError(
                f"evaluation.tokens: the first {look} tokens of validation are documents of a single token "
                "each, which have no target; give more, or null for all"
            )


def read_ahead(batch: Batch, length: np.ndarray) -> Batch:
    """The batch with prefixes of `length` (B,). The first target is the first token after the prefix."""
    prefix = torch.from_numpy(length)
    inside = torch.arange(batch.tokens.shape[1]) + 1 < prefix[:, None]
    return batch._replace(targets=batch.targets.masked_fill(inside, NO_LOSS), prefix=prefix)


def share(rows: int, of: tuple[int, int]) -> range:
    """The rows of rank r of n: a contiguous part. Raises ValueError."""
    rank, ranks = of
    if not 0 <= rank < ranks:
        raise ValueError(f"data: there is no rank {rank} of {ranks}")
    if rows < 1 or rows % ranks:
        raise ValueError(
            f"data: {rows} rows cannot be shared equally by {ranks} devices; change budget.batch_tokens"
        )
    return range(rank * rows // ranks, (rank + 1) * rows // ranks)


# --------------------------------------------------------------------------------------- permutation


def shuffle(position: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where each position (N,) of 0..n-1 goes in the order of an epoch: a keyed bijection of 0..n-1.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of 2h bits; a result of n or more is
    permuted again until it is below n (Black and Rogaway 2002, cycle walking). No order is ever stored.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    found = np.asarray(position, dtype=np.uint64).copy()
    walking = np.ones(found.shape, dtype=bool)
    while walking.any():
        left, right = found[walking] >> half, found[walking] & low
        for key in keys(seed, epoch, "order"):
            left, right = right, left ^ (mix(right + key) & low)
        found[walking] = left << half | right
        walking[walking] = found[walking] >= n
    return found.astype(np.int64)


@lru_cache(maxsize=64)
def keys(seed: int, epoch: int, use: str) -> np.ndarray:
    """ROUNDS random-looking numbers of 64 bits for a seed, an epoch and a use."""
    digests = [hashlib.sha256(f"{seed}/{epoch}/{use}/{n}".encode()).digest() for n in range(_ROUNDS)]
    return np.array([int.from_bytes(d[:8], "big") for d in digests], dtype=np.uint64)


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), which wraps at 64 bits as intended."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(ODD[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(ODD[1])
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
