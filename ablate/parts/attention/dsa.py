"""DeepSeek sparse attention, a token mixer."""

from torch import Tensor

from ablate.parts.attention.mla import LatentAttention
from ablate.parts.base import LayerContext
from ablate.parts.indexer import TopKeys
from ablate.registry import attention


@attention("dsa", paper="arXiv:2512.02556")
class SparseLatentAttention(TopKeys, LatentAttention):
    """Latent attention (`mla`) to the `top_k` keys s of the highest index score
    I(t,s) = sum_h w_h(x_t) relu(q_h(u_t) . k(x_s)) (DeepSeek sparse attention; DeepSeek-V3.2, eq. 1 and 2).

    u is the compressed query, or x without `q_rank`. The indexer has `index_heads` query heads of
    `index_width` (null: twice the width of a head) and one key for all, with `index_norm`; the memory holds
    its keys beside c. Of equal scores the later key is chosen. Scores are in fp32, and a choice may hang on
    their rounding: where two are that close, as those of a repeated token are without a position that turns,
    cached and whole passes may choose otherwise.

    The indexer learns from sum_t KL(p_t || softmax(I_t)) over the chosen keys alone (eq. 4), p the attention
    of all heads; here the mean over tokens, times `index_loss_weight`, reported as `index_loss`. Its input
    and p are detached, so this loss reaches nothing else, and the language loss does not reach the indexer.
    `top_k` null attends to all keys and learns from all (eq. 3, the dense warm-up). With `share_choice` a
    layer has no indexer and takes the choice of the nearest earlier layer that has one (arXiv:2603.12201).
    Differs from the paper in that scores are neither rotated by a Hadamard matrix nor rounded to 8 bits, and
    in that kernels hide the keys that are not chosen, which saves no time.
    """

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        u = self.compressed(x)
        return self.mixed(u, x, self.narrowed(x, u[..., : self.query_rank], view, n), n)
