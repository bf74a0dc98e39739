"""A mixture of attention heads, a token mixer."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ablate.parts.base import LayerContext, Mask, Report, Scores, mean_of_real, real_tokens
from ablate.parts.linear import Linear
from ablate.parts.mixer import KeyValueMixer
from ablate.registry import attention
from ablate.spec import LayerSpec, ModelSpec, Shape

_BALANCE, _ROUTER_Z = "attention_balance", "attention_router_z"  # in the report of a layer


class _HeadsExpert(nn.Module):
    """What an expert has of its own: the queries of its heads and the projection of what they give."""

    def __init__(self, width: int, of_heads: int):
        super().__init__()
        self.q, self.out = Linear(width, of_heads, bias=False), Linear(of_heads, width, bias=False)


@attention("moa", paper="arXiv:2210.05144")
class MixtureOfAttention(KeyValueMixer):
    """y = sum over the top k experts of gate_e(x) O_e softmax(Q_e x k' / sqrt(D)) v (mixture of attention
    heads; Zhang et al. 2022, eq. 2 to 5).

    Keys and values are those of all experts; an expert has query heads and an output of its own. A token has
    `heads` of the model, heads / top_k from each of its experts, one for each key-value head (JetMoE,
    arXiv:2404.07413; in the paper an expert is one head). Gates are the softmax over the logits of the
    chosen, in fp32. `output_bias` is learned, and added to the sum (JetMoE).

    The balance loss is E sum_e share_e probability_e of each row, share_e the choices of e among all; the
    mean over rows, by their tokens. Differs from the paper's (eq. 8), which is of the whole batch, so that
    it does not depend on how rows are split over passes and devices.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        experts: Annotated[int, Gt(0)] = 8,
        top_k: Annotated[int, Gt(0)] = 2,
        output_bias: bool = False,
        balance_loss_weight: Annotated[float, Ge(0)] = 0.01,
        router_z_loss_weight: Annotated[float, Ge(0)] = 0.0,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ):
        super().__init__()
        C, D, K = shape.width, shape.head_width, shape.heads // top_k
        self.heads, self.kv_heads, self.top_k = shape.heads, K, top_k
        self.key_width = self.value_width = D
        self.k, self.v = Linear(C, K * D, bias=False), Linear(C, K * D, bias=False)
        self.experts = nn.ModuleList(_HeadsExpert(C, K * D) for _ in range(experts))
        self.router = Linear(C, experts, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(C)) if output_bias else None
        self.constants = {"output_bias": 0.0}
        self.balance_loss_weight, self.router_z_loss_weight = balance_loss_weight, router_z_loss_weight
        self.mask, self.dropout = Mask(), dropout

    def forward(self, x: Tensor, view: LayerContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C); n is the layer."""
        gate, chosen = self.route(x, view.aux[n])  # (B,T,k)
        read = x[:, :, None].expand(-1, -1, self.top_k, -1)
        q = self.by_expert("q", read, chosen).unflatten(-1, (self.kv_heads, -1))  # (B,T,k,K,D)
        q = q.permute(0, 3, 2, 1, 4).flatten(1, 2)  # heads that share a key stand together
        k, v = (y.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for y in (self.k(x), self.v(x)))
        heads = self.attend(q, k, v, view, n, Scores(self.key_width**-0.5))
        heads = heads.unflatten(-1, (self.kv_heads, self.top_k, -1)).transpose(2, 3).flatten(3)
        y = (gate.to(heads.dtype)[..., None] * self.by_expert("out", heads, chosen)).sum(2)
        return y if self.output_bias is None else y + self.output_bias

    def route(self, x: Tensor, aux: Report) -> tuple[Tensor, Tensor]:
        """x (B,T,C) -> the gates in fp32 (or better) and the chosen experts, both (B,T,top_k)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(wide), self.router.weight.to(wide))
        best = logits.topk(self.top_k, -1)
        real = real_tokens(aux)
        aux[_BALANCE] = _balance(logits.softmax(-1), best.indices, real)
        aux[_ROUTER_Z] = mean_of_real(logits.logsumexp(-1).square(), real)
        return best.values.softmax(-1), best.indices

    def by_expert(self, name: str, x: Tensor, chosen: Tensor) -> Tensor:
        """x (B,T,k,*), each through this projection of its expert."""
        choices = chosen.flatten()
        order = choices.argsort(stable=True)
        counts = F.one_hot(choices, len(self.experts)).sum(0).tolist()
        parts = x.flatten(0, 2).index_select(0, order).split(counts)
        y = torch.cat([getattr(expert, name)(part) for expert, part in zip(self.experts, parts, strict=True)])
        back: Tensor = torch.zeros_like(y).index_copy(0, order, y).unflatten(0, chosen.shape)
        return back

    def auxiliary(self, aux: dict[str, Tensor]) -> Tensor:
        """The balance loss and the router's z-loss (ST-MoE, arXiv:2202.08906, eq. 5)."""
        return self.balance_loss_weight * aux[_BALANCE] + self.router_z_loss_weight * aux[_ROUTER_Z]

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        if options.top_k > options.experts:
            wrong.append(f"chooses top_k {options.top_k} of experts {options.experts}")
        if model.heads % options.top_k:
            wrong.append(f"top_k {options.top_k} does not divide heads {model.heads}")
        if options.top_k == 1:
            wrong.append("with top_k 1 every gate is 1: the router learns nothing of the text")
        return wrong


def _balance(probability: Tensor, chosen: Tensor, real: Tensor | None) -> Tensor:
    """E sum_e share_e probability_e of probabilities (B,T,E) and choices (B,T,k) of each row, and its mean
    over rows by their real tokens."""
    E, k = probability.shape[-1], chosen.shape[-1]
    counts = torch.ones_like(probability[..., :1]) if real is None else real[..., None].to(probability.dtype)
    tokens = counts.sum(1)  # (B,1)
    share = (F.one_hot(chosen, E).sum(2) * counts).sum(1) / (k * tokens.clamp(min=1))
    mean = (probability * counts).sum(1) / tokens.clamp(min=1)
    of_rows = E * (share * mean).sum(-1)
    return (of_rows * tokens[:, 0]).sum() / tokens.sum().clamp(min=1)
