"""Softmax attention to blocks of keys that an indexer chooses, a token mixer."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.attention.softmax import Softmax
from ablate.parts.base import LayerContext
from ablate.parts.indexer import ChosenKeys, best, products
from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@attention("block_sparse", paper="https://huggingface.co/MiniMaxAI/MiniMax-M3")
class BlockSparse(ChosenKeys, Softmax):
    """Softmax attention to the `top_blocks` blocks b, of `block` keys each, of the highest
    max_{s in b} q_g(x_t) . k(x_s) (MiniMax-M3, as transformers has it). The block of the token itself and the
    `local_blocks` - 1 before it are always among them.

    Each key-value head g chooses for the query heads that it serves. Its query of `index_width` (null: twice
    the width of a head) and the key that all share have norms of their own and turn as `dsa`'s do; the memory
    holds that key, too. Blocks are of positions, so those of a document begin with it. Of equal blocks the
    later is taken, and as in `dsa` a choice may hang on rounding.

    The release does not say what its indexer learns from. Here it is, as in `dsa`, the divergence of
    softmax(q_g . k / sqrt(index_width)) over the chosen keys from the attention of the heads that g serves,
    and reaches nothing else. The other options are those of `softmax`.
    """

    more_scores = True

    def __init__(
        self,
        shape: Shape,
        *,
        block: Annotated[int, Gt(0)] = 16,
        top_blocks: Annotated[int, Gt(0)] = 4,
        local_blocks: Annotated[int, Ge(1)] = 1,
        index_width: Annotated[int, Gt(0)] | None = None,
        index_norm: Annotated[Factory, Part("norm")] = use("rmsnorm"),
        index_loss_weight: Annotated[float, Ge(0)] = 1.0,
        **options: Any,
    ):
        super().__init__(shape, **options)
        self.block, self.top_blocks, self.local_blocks = block, top_blocks, local_blocks
        self.index_loss_weight = index_loss_weight
        self.index_heads, self.index_width = self.kv_heads, index_width or 2 * shape.head_width
        self.indexer = GroupIndexer(
            shape.width, shape.head_width, self.kv_heads, self.index_width, index_norm
        )

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        return super().forward(x, self.narrowed(x, x, view, n), n)

    def choose(self, score: Tensor, seen: Tensor, view: LayerContext) -> Tensor | None:
        own, of_key = view.sight.i // self.block, view.sight.j // self.block
        behind = own[:, None, :, None] - of_key[:, None, None, :]
        score = score.masked_fill((behind >= 0) & (behind < self.local_blocks), torch.inf)
        score = score.masked_fill(~seen, -torch.inf)
        number = score.shape[-1] // self.block + 2  # of blocks that a row of ascending positions can touch
        at = (of_key % number)[:, None, None, :].expand_as(score)
        empty = score.new_full((*score.shape[:-1], number), -torch.inf)
        of_block = empty.scatter_reduce(-1, at, score, "amax")
        return best(of_block, of_block > -torch.inf, self.top_blocks).gather(-1, at) & seen

    def taken(self, seen: int) -> int:
        return min(seen, self.top_blocks * self.block)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.local_blocks > options.top_blocks:
            wrong.append(f"local_blocks {options.local_blocks} is more than top_blocks {options.top_blocks}")
        if options.mask == "prefix":
            wrong.append(
                "chooses blocks up to the token's own, and a prefix sees later ones; say mask=causal"
            )
        return wrong


class GroupIndexer(nn.Module):
    """q_g(x_t) . k(x_s) / sqrt(width), for each group."""

    def __init__(self, width: int, turned: int, groups: int, head_width: int, norm: Any):
        super().__init__()
        self.turned, self.groups = turned, groups
        self.q = Linear(width, groups * head_width, bias=False)
        self.k = Linear(width, head_width, bias=False)
        self.q_norm, self.k_norm = norm(head_width), norm(head_width)

    def forward(self, x: Tensor, u: Tensor, view: LayerContext, n: int) -> Tensor:
        """x and u (B,T,C) -> (B,G,T,S)."""
        q = self.q_norm(self.q(u).unflatten(-1, (self.groups, -1))).transpose(1, 2)
        k = self.k_norm(self.k(x))
        scores: Tensor = products(q, k, self.turned, view, n) * k.shape[-1] ** -0.5
        return scores
