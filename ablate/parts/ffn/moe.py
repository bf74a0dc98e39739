"""Routed experts."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from math import ceil
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.base import mean_of_real, real_tokens
from ablate.parts.ffn.width import exact_fraction
from ablate.parts.linear import Linear
from ablate.registry import Factory, Part, ffn, use
from ablate.spec import LayerSpec, ModelSpec, Shape

Normalisation = Literal[
    "selected", "all", "renormalised", "sigmoid", "sigmoid_all", "sqrt_softplus", "sparsemixer"
]  # how logits become gates
AS_SCORED = ("all", "sigmoid_all")  # gates are the scores, not divided by their sum
_RENORMALISED = ("sigmoid", "sqrt_softplus")  # scores for themselves, divided by their sum
_MOST = 2**17  # experts of all layers: several times as many as any model has


@ffn("moe", paper="arXiv:1701.06538")
class MoE(nn.Module):
    """y = sum over the top k experts of gate_e(x) expert_e(x).

    Shazeer et al. 2017. The router works in fp32. `normalisation` says when the softmax is taken: over the
    selected logits (`selected`, Mixtral), over all before the selection, the selected then renormalised
    (`renormalised`, GShard) or not (`all`, Switch); or scores are sigmoids, renormalised (`sigmoid`,
    DeepSeek-V3) or not (`sigmoid_all`, Llama 4), or sqrt(softplus), renormalised (`sqrt_softplus`,
    DeepSeek-V4). `sparsemixer` is the softmax over the logits that are less than 2 `jitter` below the chosen
    one, by their size, and not chosen before (arXiv:2409.12136, as in evaluation: their sampling in training
    is not here). `routed_scale` multiplies the gates. With `groups`, only experts of the best `top_groups`
    groups are chosen, a group's score that of its best expert or of its best two (`group_score`;
    arXiv:2405.04434, section 2.2.2; arXiv:2412.19437). `gate_on` input multiplies what an expert reads, not
    what it gives (Llama 4). Shared experts may be of another kind (`shared_expert`), and `shared_gate`
    multiplies them with sigmoid(w x) (Qwen2-MoE). `router_bias` is a learned bias (gpt-oss). `output_norm`
    stands over the sum of all experts (A.X K1), and `output_bias` is learned and added to it (JetMoE). With
    `shared_sink` the router scores the shared experts, too: they are always chosen, and gates are divided by
    the sum over these and the top k. `learned_scale` is a learned factor of all gates (Inkling). The bias on
    the selection is added to the scores, or with
    `selection` logit to the logits (Kolibri-1).
    Dropless, unless `capacity_factor` c is given: an expert takes at most ceil(c k T / E) tokens of T, in
    their order, and what is over is dropped from that expert and counted. Evaluation never drops. (GShard
    and Switch count over a device's group of rows, and GShard admits all first choices before the second;
    by row and token, drops depend neither on the number of devices, nor on other rows, nor on later tokens.)

    `aux` receives `load` (E,), how many choices went to each expert, `probability` (E,), the mean of
    the router's probabilities, `router_z` and `dropped`, the share of choices that found no room. All are of
    real tokens: filling goes to no expert, takes no room and counts for nothing. The balance loss is
    E sum_e share_e probability_e (Switch, eq. 4), the load's share taken over the whole batch by the training
    step. `bias_update_rate` balances without a loss: a bias on the selection moves against the load
    (arXiv:2408.15664), by sign(sum load - E load_e).
    """

    bias: Tensor  # (E,) on the selection; a buffer

    def __init__(
        self,
        shape: Shape,
        *,
        expert: Annotated[Factory, Part("ffn")] = use("glu", activation="silu"),
        experts: Annotated[int, Gt(0)] = 8,
        top_k: Annotated[int, Gt(0)] = 2,
        shared: Annotated[int, Ge(0)] = 0,
        normalisation: Normalisation = "selected",
        capacity_factor: Annotated[float, Gt(0)] | None = None,
        balance_loss_weight: Annotated[float, Ge(0)] = 0.01,
        router_z_loss_weight: Annotated[float, Ge(0)] = 0.0,
        bias_update_rate: Annotated[float, Ge(0)] = 0.0,
        routed_scale: Annotated[float, Gt(0)] = 1.0,
        groups: Annotated[int, Gt(0)] = 1,
        top_groups: Annotated[int, Gt(0)] = 1,
        group_score: Literal["best_two", "best"] = "best_two",
        gate_on: Literal["output", "input"] = "output",
        router_bias: bool = False,
        shared_expert: Annotated[Factory, Part("ffn")] | None = None,
        shared_gate: bool = False,
        output_norm: Annotated[Factory, Part("norm")] | None = None,
        selection: Literal["score", "logit"] = "score",
        jitter: Annotated[float, Ge(0)] = 0.01,
        output_bias: bool = False,
        shared_sink: bool = False,
        learned_scale: bool = False,
    ):
        super().__init__()
        self.routed_scale, self.gate_on = routed_scale, gate_on
        self.groups, self.top_groups, self.group_score = groups, top_groups, group_score
        self.top_k, self.normalisation = top_k, normalisation
        self.capacity_factor = None if capacity_factor is None else exact_fraction(capacity_factor)
        self.balance_loss_weight, self.router_z_loss_weight, self.bias_update_rate = (
            balance_loss_weight,
            router_z_loss_weight,
            bias_update_rate,
        )
        self.router = nn.Linear(shape.width, experts + shared * shared_sink, bias=router_bias)
        self.gate_scale = nn.Parameter(torch.ones(1)) if learned_scale else None
        self.experts = nn.ModuleList(expert(shape) for _ in range(experts))
        self.shared = nn.ModuleList((shared_expert or expert)(shape) for _ in range(shared))
        self.shared_gate = Linear(shape.width, 1, bias=False) if shared_gate else None
        self.output_norm = output_norm(shape.width) if output_norm else nn.Identity()
        self.selection, self.jitter = selection, jitter
        self.output_bias = nn.Parameter(torch.zeros(shape.width)) if output_bias else None
        self.register_buffer("bias", torch.zeros(experts))
        self.constants = {"bias": 0.0, "output_bias": 0.0, "gate_scale": 1.0}
        self.shared_sink = shared_sink

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        gate, chosen = self.route(x, aux)
        gate, of_shared = gate.to(x.dtype).tensor_split((self.top_k,), -1)
        admitted = self.admit(chosen, aux)
        y = self.dispatch(x.flatten(0, 1), gate.flatten(0, 1), admitted)
        y = y.view_as(x)
        for number, expert in enumerate(self.shared):
            given = self.weighed(expert(x, aux), x)
            y = y + (of_shared[..., number, None] * given if self.shared_sink else given)
        normed: Tensor = self.output_norm(y if self.output_bias is None else y + self.output_bias)
        return normed

    def weighed(self, y: Tensor, x: Tensor) -> Tensor:
        """What a shared expert gives y of x."""
        return y if self.shared_gate is None else self.shared_gate(x).sigmoid() * y

    def route(self, x: Tensor, aux: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B,T,C) -> the gates in fp32 (or better) and the chosen experts, both (B,T,top_k); with
        `shared_sink` the gates of shared experts stand behind. The number E stands for the experts of a token
        that is not real."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.router.bias is None else self.router.bias.to(wide)
            logits = F.linear(x.to(wide), self.router.weight.to(wide), bias)
        logits, of_shared = logits.tensor_split((len(self.experts),), -1)
        probability = SCORES.get(self.normalisation, softmax)(logits)
        score = logits if self.selection == "logit" else probability
        chosen = self.eligible(score + self.bias).topk(self.top_k, -1).indices
        gate = probability.gather(-1, chosen)
        if self.normalisation == "selected":
            gate = logits.gather(-1, chosen).softmax(-1)
        elif self.normalisation == "sparsemixer":
            gate = sparsely_mixed(logits, chosen, self.jitter)
        elif self.shared_sink:
            gate = torch.cat((gate, SCORES[self.normalisation](of_shared)), -1)
            gate = gate / gate.sum(-1, keepdim=True)
        elif self.normalisation not in AS_SCORED:
            gate = gate / gate.sum(-1, keepdim=True)
        gate = self.routed_scale * gate
        if self.gate_scale is not None:
            gate = gate * self.gate_scale.to(wide)
        E, real = self.bias.shape[0], real_tokens(aux)
        if real is not None:
            chosen = chosen.masked_fill(~real[..., None], E)
        aux["load"] = F.one_hot(chosen, E + 1).sum((0, 1, 2))[:E]
        aux["probability"] = mean_of_real(probability / probability.sum(-1, keepdim=True), real)
        aux["router_z"] = mean_of_real(logits.logsumexp(-1).square(), real)
        return gate, chosen

    def eligible(self, score: Tensor) -> Tensor:
        """The scores (B,T,E), -inf outside of the best groups."""
        if self.groups == 1:
            return score
        by_group: Tensor = score.unflatten(-1, (self.groups, -1))  # (B,T,groups,E/groups)
        best = by_group.topk(2 if self.group_score == "best_two" else 1, -1).values.sum(-1)
        kept = torch.zeros_like(best, dtype=torch.bool)
        kept = kept.scatter(-1, best.topk(self.top_groups, -1).indices, True)
        return by_group.masked_fill(~kept[..., None], -torch.inf).flatten(-2)

    def admit(self, chosen: Tensor, aux: dict[str, Tensor]) -> Tensor:
        """The chosen experts (B,T,top_k), with E in the place of one that is full."""
        E = self.bias.shape[0]
        if self.capacity_factor is None or not self.training:
            aux["dropped"] = torch.zeros((), device=chosen.device)
            return chosen
        real = real_tokens(aux)
        taken = F.one_hot(chosen.flatten(1), E + 1).cumsum(1)  # (B, T k, E + 1): choices of each so far
        taken = taken.gather(-1, chosen.flatten(1)[..., None])[..., 0].view_as(chosen)
        full = (taken > self.room(self.capacity_factor, chosen, real)) & (chosen < E)
        aux["dropped"] = mean_of_real(full.float().mean(-1), real)
        return chosen.masked_fill(full, E)

    def room(self, capacity_factor: Fraction, chosen: Tensor, real: Tensor | None) -> Tensor | int:
        """ceil(c k T / E), with the real tokens T of each row: (B, 1, 1), or one number for rows of real
        tokens alone."""
        share = capacity_factor * self.top_k / self.bias.shape[0]
        if real is None:
            return ceil(share * chosen.shape[1])
        return torch.tensor(rooms(share, chosen.shape[1]), device=chosen.device)[real.sum(1)][:, None, None]

    def dispatch(self, x: Tensor, gate: Tensor, chosen: Tensor) -> Tensor:
        """x (N,C), gate (N,k), chosen (B,T,top_k). Sort the choices by expert, run each expert on its tokens,
        add the results up."""
        E, choices = self.bias.shape[0], chosen.flatten()
        counts = F.one_hot(choices, E + 1).sum(0).tolist()
        order = choices.argsort(stable=True)[: sum(counts[:E])]
        token, weight = order // self.top_k, gate.flatten().index_select(0, order)[:, None]
        parts = x.index_select(0, token).split(counts[:E])
        if self.gate_on == "input":
            parts, weight = (weight * x.index_select(0, token)).split(counts[:E]), torch.ones_like(weight)
        y = torch.cat([expert(part, {}) for expert, part in zip(self.experts, parts, strict=True)])
        return torch.zeros_like(x).index_add(0, token, y * weight)

    def auxiliary(self, aux: dict[str, Tensor]) -> Tensor:
        """The balance loss and the router's z-loss (ST-MoE, arXiv:2202.08906, eq. 5)."""
        load = aux["load"]
        balance_loss_weight = len(load) * (load / load.sum().clamp(min=1) * aux["probability"]).sum()
        return self.balance_loss_weight * balance_loss_weight + self.router_z_loss_weight * aux["router_z"]

    @torch.no_grad()
    def after_step(self, load: Tensor) -> None:
        """Raise the bias of experts below the mean load, lower that of those above. An expert that has just
        the mean stays: counts are whole numbers, and nothing is rounded."""
        self.bias += self.bias_update_rate * (load.sum() - len(load) * load).sign()

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = []
        modules = model.depth * (options.experts + options.shared)
        if modules > _MOST:
            wrong.append(
                f"has {options.experts + options.shared} experts in each of {model.depth} layers; more than "
                f"{_MOST} in all cannot be built"
            )
        if options.top_k > options.experts:
            wrong.append(f"chooses top_k {options.top_k} of experts {options.experts}")
        if options.groups == 1 and options.top_groups > 1:
            wrong.append(f"top_groups {options.top_groups} chooses among groups, and there is one")
        if options.groups > 1:
            size = options.experts // options.groups
            if options.experts % options.groups:
                wrong.append(f"groups {options.groups} does not divide experts {options.experts}")
            elif options.group_score == "best_two" and size < 2:
                wrong.append(f"group_score best_two adds up two experts, and a group has {size}")
            elif options.top_groups > options.groups or options.top_groups * size < options.top_k:
                wrong.append(
                    f"top_groups {options.top_groups} of {options.groups} groups of {size} experts does not "
                    f"leave top_k {options.top_k} to choose from"
                )
        if options.shared == 0 and (options.shared_gate or options.shared_expert is not None):
            wrong.append("shared_gate and shared_expert are of shared experts, and shared is 0")
        if options.shared_sink and (options.shared == 0 or options.normalisation not in _RENORMALISED):
            wrong.append(
                "shared_sink divides scores by a sum in which shared experts are: it needs shared, and "
                f"normalisation {' or '.join(_RENORMALISED)}"
            )
        if options.jitter != 0.01 and options.normalisation != "sparsemixer":
            wrong.append("jitter is of normalisation sparsemixer")
        if options.top_k == 1 and options.normalisation not in (*AS_SCORED, "sparsemixer"):
            wrong.append(
                f"with top_k 1 and normalisation {options.normalisation} every gate is 1: "
                "the router learns nothing of the text; normalisation=all gives it the gradient"
            )
        for expert in filter(None, (options.expert, options.shared_expert)):
            if hasattr(expert.entry.make, "reads_earlier_tokens"):
                wrong.append(
                    f"{expert.name} reads earlier tokens, and experts are given tokens without those"
                )
        if hasattr(options.expert.entry.make, "auxiliary"):
            wrong.append(
                f"its expert {options.expert.name} has a loss and a report of its own, which would be lost"
            )
        return wrong


def softmax(logits: Tensor) -> Tensor:
    """Over the experts."""
    return logits.softmax(-1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "sigmoid_all": torch.sigmoid,
    "sqrt_softplus": lambda logits: F.softplus(logits).sqrt(),
}


def sparsely_mixed(logits: Tensor, chosen: Tensor, jitter: float) -> Tensor:
    """The gates (B,T,k) of the chosen: each is the softmax over those of the logits (B,T,E) that are near its
    own and were not chosen before it."""
    left, gates = logits, []
    for expert in chosen.split(1, -1):
        best = left.gather(-1, expert)
        far = (best - logits) / logits.abs().maximum(best) > 2 * jitter
        gates.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, expert))
        left = left.scatter(-1, expert, -torch.inf)
    return torch.cat(gates, -1)


@cache
def rooms(share: Fraction, T: int) -> list[int]:
    """ceil(share t) for rows of t = 0 to T tokens."""
    return [ceil(share * t) for t in range(T + 1)]
