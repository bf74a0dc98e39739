"""What attention to a few chosen keys shares: who is chosen, and what an indexer learns from.

B rows, T queries, S keys, G groups of heads that choose for themselves.
"""

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.adding import Adding, KernelWatch
from ablate.parts.base import LayerContext, Position, Report, Scores, mean_of_real, real_tokens
from ablate.parts.linear import Linear
from ablate.parts.mixer import KeyValueMixer, MixerCosts, keys_seen
from ablate.registry import Factory, Part, use
from ablate.spec import LayerSpec, ModelSpec, Shape

CHOSEN = "chosen"  # what layers leave for later ones, in `view.shared`
INDEX_LOSS = "index_loss"  # in the report of a layer


class LightningIndexer(nn.Module):
    """I(t,s) = sum_h w_h(x_t) relu(q_h(u_t) . k(x_s)), in fp32 or better (DeepSeek-V3.2, eq. 1).

    u is what queries are made of. The first channels of q and k, as many as a head's that turn, are turned by
    the layer's position, whose biases do not count. All heads share k, which has a norm. w carries the factor
    1 / sqrt(heads width).
    """

    def __init__(self, width: int, read: int, turned: int, heads: int, head_width: int, norm: Any):
        super().__init__()
        self.heads, self.width, self.turned = heads, head_width, turned
        self.q = Linear(read, heads * head_width, bias=False)
        self.k = Linear(width, head_width, bias=False)
        self.k_norm = norm(head_width)
        self.weight = Linear(width, heads, bias=False)

    def forward(self, x: Tensor, u: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C), u (B,T,*) -> (B,1,T,S) for all keys that are remembered."""
        weight = self.weight(x)
        by_head = F.relu(products(self.by_head(self.q(u)), self.k_norm(self.k(x)), self.turned, view, n))
        with torch.autocast(x.device.type, enabled=False):
            w = weight.to(by_head.dtype) * (self.heads * self.width) ** -0.5
            scores: Tensor = (w[:, :, None] @ by_head.transpose(1, 2)).transpose(1, 2)
        return scores

    def by_head(self, q: Tensor) -> Tensor:
        """(B,T,heads width) -> (B,heads,T,width)."""
        heads: Tensor = q.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


def products(q: Tensor, k: Tensor, turned: int, view: LayerContext, n: int) -> Tensor:
    """q (B,G,T,D), k (B,T,D) of layer n's new tokens -> (B,G,T,S), q.k for all keys that are remembered, in
    fp32 or better. The position turns so many channels."""

    def turn(x: Tensor, where: Any) -> Tensor:
        first, rest = x.split((turned, x.shape[-1] - turned), -1)
        return torch.cat((view.position.rotate(first, where), rest), -1)

    q = turn(q, view.where.query)
    keys = view.memory.extend((n, "index"), k[:, None], k[:, None, :, :0], turn, view.where)[0]
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        found: Tensor = q.to(wide) @ keys.to(wide).mT
    return found


def best(score: Tensor, seen: Tensor, k: int) -> Tensor:
    """The k seen keys of the highest score (..., S), as a mask; all that are seen where they are fewer. Of
    equal scores the later keys are taken, so that the choice does not depend on how torch sorts."""
    score = score.masked_fill(~seen, -torch.inf)
    least = score.topk(min(k, score.shape[-1]), -1).values[..., -1:]
    above, level = score > least, (score == least) & seen
    room = k - above.sum(-1, keepdim=True)
    from_the_last = level.flip(-1).cumsum(-1).flip(-1)
    return above | (level & (from_the_last <= room))


def hidden(kept: Tensor) -> Tensor:
    """What is added to the scores: 0 where a key is kept, -inf elsewhere."""
    return torch.zeros(kept.shape, device=kept.device).masked_fill(~kept, -torch.inf)


@torch.no_grad()
def attended(q: Tensor, k: Tensor, added: Tensor, scores: Scores, groups: int) -> Tensor:
    """q (B,H,T,D), k (B,K,S,D), added (1|B, 1|H, T, S) -> (B,G,T,S): how much of the attention of the
    heads of each group goes to each key. One head after the other, or it would take H times the memory."""
    shared, each = q.shape[1] // k.shape[1], q.shape[1] // groups
    totals = [torch.zeros((), dtype=added.dtype, device=q.device)] * groups
    for h in range(q.shape[1]):
        s = (q[:, h] @ k[:, h // shared].mT).to(added.dtype) * scores.scale
        if scores.softcap is not None:
            s = scores.softcap * torch.tanh(s / scores.softcap)
        totals[h // each] = totals[h // each] + (s + added[:, h % added.shape[1]]).softmax(-1)
    return torch.stack(totals, 1) / each


def divergence(p: Tensor, score: Tensor, kept: Tensor, aux: Report) -> Tensor:
    """The mean over groups and real tokens of KL(p || softmax of the scores), both (B,G,T,S) and over the
    kept keys."""
    log_q = score.masked_fill(~kept, -torch.inf).log_softmax(-1).masked_fill(~kept, 0.0)
    return mean_of_real((torch.xlogy(p, p) - p * log_q).sum(-1).mean(1), real_tokens(aux))


class ChosenKeys(KeyValueMixer):
    """What attention to chosen keys has beside the attention that it is mixed into, before which it stands,
    and which is called with the view that `narrowed` gives. It sets what stands here."""

    indexer: Any  # (x, u, view, n) -> scores (B,G,T,S); None: another layer's choice is taken
    index_heads: int  # queries that it compares with each key
    index_width: int
    index_loss_weight: float
    weighs_heads: ClassVar[bool] = False  # the indexer's heads, each with a number of the token

    def choose(self, score: Tensor, seen: Tensor, view: LayerContext) -> Tensor | None:
        """scores (B,G,T,S), seen (1|B,1,T,S) -> which are kept; None: all that are seen."""
        raise NotImplementedError

    def taken(self, seen: int) -> int:
        """How many keys a token attends to, of so many that it sees."""
        raise NotImplementedError

    def narrowed(self, x: Tensor, u: Tensor, view: LayerContext, n: int) -> LayerContext:
        """The view of layer n, whose kernel sees the chosen keys. x (B,T,C); queries are made of u."""
        if self.indexer is None:
            sources = (view.shared[CHOSEN, m] for m in range(n - 1, -1, -1) if (CHOSEN, m) in view.shared)
            return view._replace(kernel=Adding(view.kernel, next(sources)))
        seen = self.mask.dense(view.sight)
        score = self.indexer(x.detach(), u.detach(), view, n)
        with torch.no_grad():
            kept = self.choose(score, seen, view)
        hiding = None if kept is None else self.by_head(hidden(kept))
        view.shared[CHOSEN, n] = hiding
        watch = self.compared(score, seen if kept is None else kept, view, n) if self.training else None
        return view._replace(kernel=Adding(view.kernel, hiding, watch))

    def by_head(self, x: Tensor) -> Tensor:
        """(B,G,T,S) -> (B,1|H,T,S)."""
        return x if x.shape[1] == 1 else x.repeat_interleave(self.heads // x.shape[1], 1)

    def compared(self, score: Tensor, kept: Tensor, view: LayerContext, n: int) -> KernelWatch:
        """Reports how far the scores (B,G,T,S) are from the attention to the kept keys, (1|B,1|G,T,S)."""

        def watch(q: Tensor, k: Tensor, scores: Scores) -> None:
            bias, of_position = torch.zeros((), dtype=score.dtype, device=score.device), view.position.bias
            if of_position is not None:
                i, j = view.sight.i[:, None, :, None], view.sight.j[:, None, None, :]
                heads = torch.arange(q.shape[1], device=q.device)[None, :, None, None]
                bias = of_position(heads, i, j).detach().to(score.dtype)
            added = torch.where(self.by_head(kept), bias, -torch.inf)
            p = attended(q, k, added, scores, score.shape[1])
            view.aux[n][INDEX_LOSS] = divergence(p, score, kept, view.aux[n])

        return watch

    def auxiliary(self, aux: dict[str, Tensor]) -> Tensor:
        """The loss of the indexer, of which nothing else learns; 0 where the layer reported none."""
        if INDEX_LOSS not in aux:
            return torch.zeros((), device=next(iter(aux.values())).device)
        return self.index_loss_weight * aux[INDEX_LOSS]

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        """`products` counts the chosen keys; kernels hide the others, so what is computed is the unmasked.
        What the loss takes is not counted."""
        whole = super().costs(position, tokens, value_bytes)
        seen = keys_seen(self.mask, tokens)
        chosen = [self.taken(s) for s in seen]
        index = 0 if self.indexer is None else self.index_heads * (self.index_width + self.weighs_heads)
        stored = 0 if self.indexer is None else self.index_width * value_bytes
        return MixerCosts(
            whole.products * sum(chosen) / sum(seen) + index * sum(seen) / tokens,
            whole.products_unmasked + index * tokens,
            whole.last_products * chosen[-1] / seen[-1] + index * seen[-1],
            whole.token_bytes + stored,
            whole.row_bytes + stored * tokens,
        )

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        usual = options.index_width == 2 * model.shape().head_width
        plainer: dict[str, Any] = super().canonical(options, layer, model)  # type: ignore[misc]
        return {**plainer, "index_width": None if usual else options.index_width}

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong, D = super().check(options, layer, model), model.shape().head_width
        if options.index_width is not None and options.index_width < D:
            wrong.append(f"index_width {options.index_width} is below the {D} channels that turn")
        if getattr(options, "window", None) is not None:
            wrong.append("the indexer chooses among all keys, so a window would hide what it chose")
        return wrong


class TopKeys(ChosenKeys):
    """The keys of the highest score, by a lightning indexer."""

    weighs_heads = True

    def __init__(
        self,
        shape: Shape,
        *,
        top_k: Annotated[int, Gt(0)] | None = 64,
        index_heads: Annotated[int, Gt(0)] = 4,
        index_width: Annotated[int, Gt(0)] | None = None,
        index_norm: Annotated[Factory, Part("norm")] = use("layernorm"),
        index_loss_weight: Annotated[float, Ge(0)] = 1.0,
        share_choice: bool = False,
        **options: Any,
    ):
        super().__init__(shape, **options)  # type: ignore[call-arg]
        self.top_k, self.index_loss_weight = top_k, index_loss_weight
        self.more_scores = share_choice or top_k is not None
        self.index_heads, self.index_width = index_heads, index_width or 2 * shape.head_width
        self.indexer = None
        if not share_choice:
            C, read = shape.width, options.get("q_rank") or shape.width
            self.indexer = LightningIndexer(
                C, read, shape.head_width, index_heads, self.index_width, index_norm
            )

    def choose(self, score: Tensor, seen: Tensor, view: LayerContext) -> Tensor | None:
        if self.top_k is None or self.top_k >= score.shape[-1]:
            return None
        return best(score, seen, self.top_k)

    def taken(self, seen: int) -> int:
        return min(seen, self.top_k or seen)

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if not options.share_choice:
            return wrong
        layers = model.layers()
        first = next(n for n, other in enumerate(layers) if other == layer)
        earlier: list[Any] = [
            other.attention for other in layers[:first] if hasattr(other.attention, "share_choice")
        ]
        source = next((other for other in reversed(earlier) if not other.share_choice), None)
        if source is None:
            wrong.append(f"share_choice: no layer before layer {first} has an indexer, whose choice it takes")
        elif source.top_k != options.top_k:
            wrong.append(f"share_choice: top_k {options.top_k} is not that of the indexer, {source.top_k}")
        return wrong
