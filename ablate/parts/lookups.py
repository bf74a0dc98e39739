"""The contract of lookups: what a layer adds to the stream from tables that it reads by the tokens.

Letters: B rows, T tokens of this call, C width, V vocabulary.
"""

import hashlib
from typing import ClassVar, Literal

from torch import Tensor, nn

from ablate.parts.recurrence import RecurrentContext, RecurrentGroup
from ablate.spec import Shape


class Lookup(nn.Module):
    """Called with what the branch reads of the stream, (B,T,C), the view of its group and the number of the
    layer (-1 at the input); gives what is added to the stream, (B,T,C). `view.shared` holds the `tokens`
    (B,T) and what was `embedded` (B,T,C)."""

    place: ClassVar[Literal["start", "end", "nowhere"]] = "start"  # of its layer

    def __init__(self, shape: Shape):
        super().__init__()

    def group(self) -> RecurrentGroup:
        """Where it remembers earlier tokens."""
        return RecurrentGroup()

    def row_bytes(self, value_bytes: int) -> int:
        """What is remembered of a row."""
        return 0


def previous(tokens: Tensor, view: RecurrentContext, n: int, size: int, nothing: int) -> list[Tensor]:
    """tokens (B,T) -> they, those one before, and so on: `size` tensors (B,T). Where there is none, before
    the first token of a row or a document, stands `nothing`. The last tokens are remembered for layer n."""
    return view.earlier(n, "tokens", tokens, range(size - 1, -1, -1), nothing)


class HashedTable(nn.Module):
    """One row for each n-gram of a size, as a hash finds it: xor_j m_j t_{-j} modulo a prime (Cheng et al.
    2026, section 2). Different n-grams may share a row."""

    def __init__(self, size: int, rows: int, width: int, key: str):
        super().__init__()
        self.table = nn.Embedding(next_prime(rows), width)
        self.rows = self.table.num_embeddings
        self.multipliers = [hash_multiplier(f"{key}/{size}/{back}") for back in range(size)]

    def forward(self, tokens: list[Tensor]) -> Tensor:
        """Tokens, those before and so on, each (B,T) -> (B,T,width)."""
        mixed = tokens[0] * self.multipliers[0]
        for before, factor in zip(tokens[1:], self.multipliers[1:], strict=False):
            mixed = mixed ^ (before * factor)
        found: Tensor = self.table(mixed % self.rows)
        return found


def hash_multiplier(key: str) -> int:
    """An odd number below 2^31, so that no product with a token overflows; the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1 | 1


def next_prime(least: int) -> int:
    """The smallest prime that is not below `least`."""
    n = max(2, least)
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n
