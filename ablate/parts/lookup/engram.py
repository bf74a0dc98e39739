"""Engram, a lookup."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.parts.lookups import HashedTable, Lookup, previous
from ablate.parts.recurrence import RecurrentContext, ShortConvolution
from ablate.parts.starts import zeros
from ablate.registry import Factory, Part, lookup, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@lookup("engram", paper="arXiv:2601.07372")
class Engram(Lookup):
    """x <- x + u + silu(conv(norm(u))), u = sigmoid(norm(x) . norm(W_k e) / sqrt(C)) W_v e (Cheng et al.
    2026, section 2).

    e joins `heads` rows for each size of n-gram from 2 to `n`, each from a table of its own. Together they
    are `width` numbers (null: the width of the model). A table has `rows` rows (null: five for each token of
    the vocabulary), rounded up to a prime. The convolution over `convolution` tokens, n apart, starts at 0.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        n: Annotated[int, Ge(2), Le(8)] = 3,
        heads: Annotated[int, Gt(0)] = 2,
        rows: Annotated[int, Gt(0)] | None = None,
        width: Annotated[int, Gt(0)] | None = None,
        convolution: Annotated[int, Ge(2)] = 4,
        norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
    ):
        super().__init__(shape)
        C = shape.width
        whole = width or C
        self.n, self.vocab, self.scale = n, shape.vocab, C**-0.5
        each = whole // (heads * (n - 1))
        self.tables = nn.ModuleList(
            HashedTable(size, rows or 5 * shape.vocab, each, f"engram/{head}")
            for size in range(2, n + 1)
            for head in range(heads)
        )
        self.sizes = [size for size in range(2, n + 1) for _ in range(heads)]
        self.k, self.v = Linear(whole, C, bias=False), Linear(whole, C, bias=False)
        self.stream_norm, self.key_norm, self.conv_norm = norm(C), norm(C), norm(C)
        self.conv = ShortConvolution(C, convolution, dilation=n)
        self.starts = {"conv.weight": zeros}

    def forward(self, x: Tensor, view: RecurrentContext, n: int) -> Tensor:
        tokens = previous(view.shared["tokens"], view, n, self.n, self.vocab)
        rows = [table(tokens[:size]) for size, table in zip(self.sizes, self.tables, strict=True)]
        e = torch.cat(rows, -1).to(x.dtype)
        gate = (self.stream_norm(x) * self.key_norm(self.k(e))).sum(-1, keepdim=True) * self.scale
        u = gate.sigmoid() * self.v(e)
        y: Tensor = u + nn.functional.silu(self.conv(self.conv_norm(u), view, n, "lookup"))
        return y

    def row_bytes(self, value_bytes: int) -> int:
        """Tokens are kept as 64 bit, and what the convolution reads."""
        return 8 * (self.n - 1) + self.conv.past * self.conv.width * value_bytes

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        whole, parts = options.width or model.width, options.heads * (options.n - 1)
        if whole % parts:
            return [f"width {whole} is not a multiple of heads times sizes of n-grams, {parts}"]
        return []
