"""Attention in blocks of queries, for windows and biases on a CPU."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.parts.base import NOWHERE, AttentionPositions, Bias, Kernel, KernelRequirements, Mask, Scores
from ablate.parts.kernel.sdpa import SDPA, PreparedMask
from ablate.registry import kernel


class Blocks(NamedTuple):
    """n blocks of w queries, w the window; each has c = sink_tokens + 2 w keys."""

    added: Tensor  # (1|B, n H, w, c) what is added to the scores, -inf where a key is not seen
    kept: Tensor | None  # (1|B, n sink_tokens) the columns of the kept keys
    window: int


@kernel("chunked", paper="arXiv:2004.05150")
class Chunked(SDPA):
    """Sliding windows in O(w T): what a block of w queries can see lies in its own block and the one before.

    The blocks (Beltagy et al. 2020, section 3.1, "sliding chunks") are folded into the heads of one call of
    scaled_dot_product_attention. The kept first keys stand in front of each block, hidden where the two
    blocks have them already.

    It is the same mathematics as `sdpa`, so one kernel serves a pattern of local and global layers: those
    without a window are handed to `sdpa`. So are, of the others, rows of at most 3 w tokens (where blocks
    gain nothing) and queries that look at remembered keys. A document must stand together in its row, as
    packing leaves it.
    """

    name = "chunked"
    whole = SDPA()  # of layers without a window

    def refuses(self, need: KernelRequirements) -> str | None:
        if need.mask.window is not None and need.mask.prefix:
            return "cannot bound what is seen ahead in a prefix by blocks of the window"
        if need.mask.window is not None and need.more_scores:
            return "cannot add the scores that a layer makes to blocks of a window"
        return super().refuses(need)

    def for_mask(self, mask: Mask) -> Kernel:
        return self if mask.window is not None else self.whole

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> Any:
        assert mask.window is not None, "a layer without a window is another kernel's"
        if not sight.own or sight.i.shape[1] <= 3 * mask.window:
            return super().prepare(mask, sight, bias, heads, dtype)
        return blocks(mask, mask.window, sight, bias, heads, dtype)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: Any, scores: Scores, dropout: float
    ) -> Tensor:
        if isinstance(prepared, PreparedMask):
            return super().__call__(q, k, v, prepared, scores, dropout)
        added, kept, w = prepared
        n = -(-q.shape[2] // w)
        if scores.sink is not None:
            scores = scores._replace(sink=scores.sink.repeat(n))
        y = super().__call__(
            of_queries(q, n, w),
            of_keys(k, kept, n, w),
            of_keys(v, kept, n, w),
            PreparedMask(added, causal=False),
            scores,
            dropout,
        )
        by_block: Tensor = y.unflatten(1, (n, -1))
        return by_block.transpose(1, 2).flatten(2, 3)[:, :, : q.shape[2]]


def of_queries(x: Tensor, n: int, w: int) -> Tensor:
    """The blocks of (B,H,T,D): (B, n H, w, D)."""
    x = F.pad(x, (0, 0, 0, n * w - x.shape[2]))
    by_block: Tensor = x.unflatten(2, (n, w))
    return by_block.transpose(1, 2).flatten(1, 2)


def of_keys(x: Tensor, kept: Tensor | None, n: int, w: int, empty: int = 0) -> Tensor:
    """What each block of queries is shown of (B,K,T,D): (B, n K, c, D); `empty` where there is nothing."""
    padded = F.pad(x, (0, 0, w, n * w - x.shape[2]), value=empty).unflatten(2, (n + 1, w)).transpose(1, 2)
    shown = [padded[:, :-1], padded[:, 1:]]  # (B, n, K, w, D) each
    if kept is not None:
        columns = kept[:, None, :, None].expand(x.shape[0], x.shape[1], -1, x.shape[3])
        shown.insert(0, x.gather(2, columns).unflatten(2, (n, -1)).transpose(1, 2))
    return torch.cat(shown, 3).flatten(1, 2)


def blocks(
    mask: Mask, w: int, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
) -> Blocks:
    """Columns say which block a token is in; who sees whom is said by the positions, as everywhere."""
    n = -(-sight.i.shape[1] // w)
    kept = kept_columns(sight, mask.sink_tokens, n, w) if mask.sink_tokens else None
    i = queries_facts(sight.i, n, w)
    j = keys_facts(sight.j, kept, n, w, NOWHERE)
    if kept is not None:  # hidden where the two blocks show it
        first_shown = w * torch.arange(-1, n - 1, device=j.device)[:, None]
        again = kept.unflatten(1, (n, -1)) >= first_shown  # (1|B, n, sink_tokens)
        hidden = F.pad(again, (0, 2 * w))[:, :, None, None]
        j = j.masked_fill(hidden, NOWHERE)
    seen = mask.visible(i, j, None)  # (1|B, n, 1, w, c)
    if sight.documents is not None:
        of_query, of_key = sight.documents
        seen = seen & (queries_facts(of_query, n, w) == keys_facts(of_key, kept, n, w, -NOWHERE))
    if bias is None:
        b = torch.zeros((), device=seen.device)
    else:
        b = bias(torch.arange(heads, device=seen.device)[None, None, :, None, None], i, j)
    added = torch.where(seen, b, -torch.inf).to(dtype)
    return Blocks(added.expand(-1, -1, heads, -1, -1).flatten(1, 2), kept, w)


def kept_columns(sight: AttentionPositions, sink_tokens: int, n: int, w: int) -> Tensor:
    """(1|B, n sink_tokens): where the kept keys of each block stand. Only the document that its first query
    is in can have them further back than the two blocks."""
    T, device = sight.i.shape[1], sight.i.device
    start = torch.zeros(1, n, dtype=torch.long, device=device)
    if sight.documents is not None:
        document = sight.documents[0]
        begins = F.pad(document[:, 1:] != document[:, :-1], (1, 0))
        start = (begins * torch.arange(T, device=device)).cummax(1).values[:, ::w]
    columns = start[..., None] + torch.arange(sink_tokens, device=device)
    return columns.clamp(max=T - 1).flatten(1)


def queries_facts(x: Tensor, n: int, w: int) -> Tensor:
    """Positions or documents of the queries (1|B, T) by block: (1|B, n, 1, w, 1).

    The queries that fill the last block up repeat the last one, for a row that sees nothing has no softmax.
    """
    filled = torch.cat((x, x[:, -1:].expand(-1, n * w - x.shape[1])), 1)
    by_block: Tensor = filled.unflatten(1, (n, w))
    return by_block[:, :, None, :, None]


def keys_facts(x: Tensor, kept: Tensor | None, n: int, w: int, empty: int) -> Tensor:
    """Those of the keys: (1|B, n, 1, 1, c)."""
    if kept is not None:
        x = x.expand(max(x.shape[0], kept.shape[0]), -1)
    return of_keys(x[:, None, :, None], kept, n, w, empty)[:, :, None, None, :, 0]
