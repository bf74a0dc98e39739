"""What layers that attend remember between calls: everything (`Cache`), or a window (`RollingCache`).

In training nothing is remembered (`ablate.parts.base.NoCache`). One memory serves a group of layers that
share mask and position. Storage is preallocated, written in place and read through views.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from ablate.parts.base import NOWHERE, AttentionPositions, ForwardContext, MemoryView, PositionInputs

Turn = Callable[[Tensor, Any], Tensor]


class Cache:
    """All keys and values, in the order of the calls. Room for `capacity` tokens a row."""

    def __init__(self, capacity: int):
        self.size, self.start, self.filled = capacity, 0, 0
        self.positions: Tensor | None = None  # (1|B, capacity)
        self.document: Tensor | None = None  # (B, capacity)
        self.stored: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def look(self, call: ForwardContext) -> MemoryView:
        T = call.positions.shape[1]
        self.start, self.filled = self.filled, self.filled + T
        if self.filled > self.size:
            raise ValueError(f"the cache has room for {self.size} tokens; {self.filled} were given")
        now = documents_of(call, self.document is not None, self.start)
        if self.positions is None:
            self.positions = call.positions.new_empty(call.positions.shape[0], self.size)
            self.document = None if now is None else now.new_empty(now.shape[0], self.size)
        self.positions[:, self.start : self.filled] = call.positions
        documents = None
        if now is not None and self.document is not None:
            self.document[:, self.start : self.filled] = now
            documents = (now, self.document[:, : self.filled])
        positions = self.positions[:, : self.filled]
        return MemoryView(
            AttentionPositions(
                call.positions, positions, documents, call.prefix, own=self.start == 0, last=T == 1
            ),
            call.positions,
        )

    def extend(
        self, n: Hashable, k: Tensor, v: Tensor, turn: Turn, where: PositionInputs
    ) -> tuple[Tensor, Tensor]:
        k = turn(k, where.new)
        if n not in self.stored:
            self.stored[n] = _room(k, self.size), _room(v, self.size)
        keys, values = self.stored[n]
        keys.narrow(2, self.start, k.shape[2]).copy_(k)  # narrow is quicker than a slice, token by token
        values.narrow(2, self.start, v.shape[2]).copy_(v)
        return keys.narrow(2, 0, self.filled), values.narrow(2, 0, self.filled)


class RollingCache:
    """The last `window` keys, and the first `sink_tokens` of each row's document: what a windowed layer can
    see, and no more. A token costs the same whatever has been dropped.

    Slots: `sink_tokens`, each row's own, then a ring by column. A kept token is hidden in the ring, so it
    is seen once. A single token is written first and sees the slots that are filled; a call of several tokens
    sees the slots as they were, followed by its own keys.

    With `restart`, keys are stored unturned and each reading turns them by their place in the memory, so
    that positions never grow beyond what was trained (StreamingLLM; Xiao et al. 2024, section 3.2).
    """

    def __init__(self, window: int, sink_tokens: int = 0, restart: bool = False):
        self.window, self.sink_tokens, self.restart = window, sink_tokens, restart
        self.size = sink_tokens + window
        self.column = 0  # tokens seen in a row, padding included
        self.positions: Tensor | None = None  # (1|B, size)
        self.document: Tensor | None = None  # (B, size)
        self.stored: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def look(self, call: ForwardContext) -> MemoryView:
        T, first = call.positions.shape[1], self.column == 0
        now = documents_of(call, self.document is not None, self.column)
        positions = call.positions if now is None else call.positions.expand(now.shape[0], T)
        if self.positions is None:
            self.positions = positions.new_full((positions.shape[0], self.size), NOWHERE)
            self.document = None if now is None else now.new_full((now.shape[0], self.size), -NOWHERE)
        self.alone, self.first = T == 1, first
        hidden = self._kept(positions, now) if self.sink_tokens else positions
        self.slot = self.sink_tokens + self.column % self.window
        if not self.alone:
            self.recent = torch.arange(max(0, T - self.window), T, device=positions.device)
            self.ring = self.sink_tokens + (self.column + self.recent) % self.window
        self.column += T
        self.filled = self.sink_tokens + min(self.column, self.window)

        before = self.positions, self.document
        self.positions = self._written(
            self.positions[:, None, :, None], positions[:, None, :, None], hidden[:, None, :, None]
        )[:, 0, :, 0]
        if now is not None and self.document is not None:
            self.document = self._written(self.document[:, None, :, None], now[:, None, :, None])[:, 0, :, 0]
        seen_at, seen_document = self.positions[:, : self.filled], self.document
        if self.alone and seen_document is not None:
            seen_document = seen_document[:, : self.filled]
        if not self.alone:
            seen_at = positions if first else torch.cat((before[0], positions), 1)
            seen_document = now if first or now is None else torch.cat((before[1], now), 1)  # type: ignore[arg-type]
        query_at, new_at = call.positions, call.positions
        places = None
        if self.restart:
            query_at, places = self._places(call.positions, seen_at)
            seen_at = places
        documents = None if now is None or seen_document is None else (now, seen_document)
        own, all_seen = first and not self.alone, self.alone and not self.sink_tokens
        sight = AttentionPositions(
            query_at, seen_at, documents, call.prefix, own=own, last=all_seen, near=all_seen
        )
        return MemoryView(sight, new_at, places)

    def extend(
        self, n: Hashable, k: Tensor, v: Tensor, turn: Turn, where: PositionInputs
    ) -> tuple[Tensor, Tensor]:
        if not self.restart:
            k = turn(k, where.new)
        if n not in self.stored:
            self.stored[n] = _room(k, self.size).zero_(), _room(v, self.size).zero_()  # all slots are read
        old = self.stored[n]
        self.stored[n] = self._written(old[0], k), self._written(old[1], v)
        if self.alone:
            k, v = (x.narrow(2, 0, self.filled) for x in self.stored[n])
        elif not self.first:
            k, v = torch.cat((old[0], k), 2), torch.cat((old[1], v), 2)
        return (turn(k, where.seen) if self.restart else k), v

    def _kept(self, positions: Tensor, document: Tensor | None) -> Tensor:
        """Find the tokens that slots are to keep; the positions as the ring shows them, without those."""
        last = (
            torch.ones_like(positions, dtype=torch.bool) if document is None else document == document[:, -1:]
        )
        slot = torch.arange(self.sink_tokens, device=positions.device)[None, :, None]
        found = (positions[:, None] == slot) & last[:, None]  # (1|B, sink_tokens, T)
        self.found, self.source = found.any(-1), found.int().argmax(-1)
        return positions.masked_fill((positions >= 0) & (positions < self.sink_tokens) & last, NOWHERE)

    def _written(self, old: Tensor, new: Tensor, ring: Tensor | None = None) -> Tensor:
        """`old` (B,*,size,D) with new tokens (B,*,T,D) in their slots; the ring takes `ring` instead."""
        kept = new
        if self.sink_tokens:
            rows = (new.shape[0], new.shape[1], self.sink_tokens, new.shape[3])
            source = self.source[:, None, :, None].expand(rows)
            chosen = new.gather(2, source)
            kept = torch.where(self.found[:, None, :, None], chosen, old[:, :, : self.sink_tokens])
        written = old.clone() if not self.alone else old
        ring = new if ring is None else ring
        if self.alone:
            written.narrow(2, self.slot, 1).copy_(ring)
        else:
            written[:, :, self.ring] = ring[:, :, self.recent]
        if self.sink_tokens:
            written[:, :, : self.sink_tokens] = kept
        return written

    def _places(self, positions: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of queries and keys counted inside the memory."""
        newest = positions[:, -1:]
        if positions.shape[1] > 1 and int(newest.max()) >= self.size:
            raise ValueError(
                f"a restarting memory of {self.size} tokens takes a longer prompt one token at a time"
            )
        shift = (newest - (self.size - 1)).clamp(min=0)
        return positions - shift, torch.where(seen < self.sink_tokens, seen, seen - shift)


def documents_of(call: ForwardContext, known: bool, seen: int) -> Tensor | None:
    """The document of each token of this call, (B,T); None where calls name none. Raises ValueError where
    some calls do and others do not."""
    if call.document is not None or not known:
        if not known and call.document is not None and seen:
            raise ValueError("documents were named after tokens without any; name them from the first call")
        return call.document
    raise ValueError("the first call named documents, so each call must (generation repeats the last one)")


def _room(x: Tensor, size: int) -> Tensor:
    return x.new_empty(*x.shape[:2], size, x.shape[3])
