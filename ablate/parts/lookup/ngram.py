"""Ngram, a lookup."""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ablate.parts.lookups import HashedTable, Lookup, previous
from ablate.parts.recurrence import RecurrentContext
from ablate.parts.starts import zeros
from ablate.registry import lookup
from ablate.spec import LayerSpec, ModelSpec, Shape


@lookup("ngram", paper="https://github.com/KellerJordan/modded-nanogpt")
class NGram(Lookup):
    """x <- x + sum_{s=2..n} E_s[hash(t_{-s+1}, ..., t_0)] (the bigram embedding of modded-nanogpt, n = 2).

    A table has `rows` rows (null: five for each token of the vocabulary), rounded up to a prime. It starts
    at 0, so that the model starts without it. No n-gram reaches over the border of a document.
    """

    def __init__(
        self, shape: Shape, *, n: Annotated[int, Ge(2), Le(8)] = 2, rows: Annotated[int, Gt(0)] | None = None
    ):
        super().__init__(shape)
        self.n, self.vocab = n, shape.vocab
        self.tables = nn.ModuleList(
            HashedTable(size, rows or 5 * shape.vocab, shape.width, "ngram") for size in range(2, n + 1)
        )
        self.starts = {f"tables.{k}.table.weight": zeros for k in range(n - 1)}

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        tokens = previous(view.shared["tokens"], view, n, self.n, self.vocab)
        read = [table(tokens[:size]) for size, table in enumerate(self.tables, 2)]
        y: Tensor = sum(read[1:], read[0])
        return y

    def row_bytes(self, value_bytes: int) -> int:
        """Tokens are kept as 64 bit."""
        return 8 * (self.n - 1)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wide = not getattr(model.stream.entry.make, "closes", True)
        if wide and layer.lookup == options:
            return [
                f"reads nothing of the stream, so how stream {model.stream.name} is read would never be "
                "learnt; say model.embedding.lookup=ngram"
            ]
        return []
