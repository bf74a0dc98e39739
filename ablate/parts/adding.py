"""A kernel of one layer that adds scores which the layer makes of the text."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ablate.parts.base import Kernel, Scores

KernelWatch = Callable[[Tensor, Tensor, Scores], None]  # (q, k, scores) as a kernel is called with them


class Adding(Kernel):
    """The kernel of a call, with `more` (1|B, 1|H, T, S) added to the scores; None adds nothing. It may tell
    the layer what it is called with."""

    def __init__(self, kernel: Kernel, more: Tensor | None, watch: KernelWatch | None = None):
        self.kernel, self.more, self.watch = kernel, more, watch

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: Any, scores: Scores, dropout: float
    ) -> Tensor:
        if self.watch is not None:
            self.watch(q, k, scores)
        if self.more is not None:
            prepared = self.kernel.with_scores(prepared, self.more)
        return self.kernel(q, k, v, prepared, scores, dropout)
