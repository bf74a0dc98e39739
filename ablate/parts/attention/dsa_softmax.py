"""Softmax attention to the keys that a lightning indexer chooses, a token mixer."""

from torch import Tensor

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext
from ablate.parts.indexer import TopKeys
from ablate.registry import attention


@attention("dsa_softmax", paper="arXiv:2512.02556")
class SparseSoftmax(TopKeys, Softmax):
    """Softmax attention to the `top_k` keys that an indexer chooses: `dsa` with keys and values of each head
    instead of latent ones, and queries of the indexer made of x.

    The options of the indexer are those of `dsa`, the others those of `softmax`. p, which the indexer learns
    from, leaves a learned sink out. It chooses among all keys, so there is no window.
    """

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return super().forward(x, self.narrowed(x, x, view, n), n)
