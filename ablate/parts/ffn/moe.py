from math import ceil
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.parts.ffn.width import exact
from ablate.registry import Factory, Part, ffn, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@ffn("moe", paper="arXiv:1701.06538")
class MoE(nn.Module):
    """y = sum over the top k experts of gate_e(x) expert_e(x).

    Shazeer et al. 2017. The router works in fp32. `normalisation` says when the softmax is taken: over the
    selected logits (`selected`, Mixtral), over all before the selection, the selected then renormalised
    (`renormalised`, GShard) or not (`all`, Switch), or sigmoids, renormalised (`sigmoid`, DeepSeek-V3).
    Dropless, unless `capacity_factor` c is given: an expert takes at most ceil(c k T / E) tokens of a row, in
    their order, and what is over is dropped from that expert and counted. Evaluation never drops. (GShard
    and Switch count over a device's group of rows, and GShard admits all first choices before the second;
    by row and token, drops depend neither on the number of devices, nor on other rows, nor on later tokens.)

    `aux` receives `load` (E,), the share of the choices that went to each expert, `probability` (E,),
    the mean of the router's probabilities, `router_z` and `dropped`. The balance loss is
    E sum_e load_e probability_e (Switch, eq. 4), the load taken over the whole batch by the training step.
    `bias_update_rate` balances without a loss: a bias on the selection moves against the load (arXiv:2408.15664).
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
        normalisation: Literal["selected", "all", "renormalised", "sigmoid"] = "selected",
        capacity_factor: Annotated[float, Gt(0)] | None = None,
        balance_loss_weight: Annotated[float, Ge(0)] = 0.01,
        router_z_loss_weight: Annotated[float, Ge(0)] = 0.0,
        bias_update_rate: Annotated[float, Ge(0)] = 0.0,
    ):
        super().__init__()
        self.top_k, self.normalisation = top_k, normalisation
        self.capacity_factor = None if capacity_factor is None else exact(capacity_factor)
        self.balance_loss_weight, self.router_z_loss_weight, self.bias_update_rate = (
            balance_loss_weight,
            router_z_loss_weight,
            bias_update_rate,
        )
        self.router = nn.Linear(shape.width, experts, bias=False)
        self.experts = nn.ModuleList(expert(shape) for _ in range(experts))
        self.shared = nn.ModuleList(expert(shape) for _ in range(shared))
        self.register_buffer("bias", torch.zeros(experts))
        self.constants = {"bias": 0.0}

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        gate, chosen = self.route(x, aux)
        y = self.dispatch(x.flatten(0, 1), gate.flatten(0, 1).to(x.dtype), self.admit(chosen, aux))
        y = y.view_as(x)
        for expert in self.shared:
            y = y + expert(x, aux)
        return y

    def route(self, x: Tensor, aux: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B,T,C) -> the gates in fp32 (or better) and the chosen experts, both (B,T,top_k)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(wide), self.router.weight.to(wide))
        probability = logits.sigmoid() if self.normalisation == "sigmoid" else logits.softmax(-1)
        chosen = (probability + self.bias).topk(self.top_k, -1).indices
        gate = probability.gather(-1, chosen)
        if self.normalisation == "selected":
            gate = logits.gather(-1, chosen).softmax(-1)
        elif self.normalisation != "all":
            gate = gate / gate.sum(-1, keepdim=True)
        E = self.bias.shape[0]
        aux["load"] = F.one_hot(chosen, E).sum((0, 1, 2)) / chosen.numel()
        aux["probability"] = (probability / probability.sum(-1, keepdim=True)).mean((0, 1))
        aux["router_z"] = logits.logsumexp(-1).square().mean()
        return gate, chosen

    def admit(self, chosen: Tensor, aux: dict[str, Tensor]) -> Tensor:
        """The chosen experts (B,T,top_k), with E in the place of one that is full."""
        E = self.bias.shape[0]
        if self.capacity_factor is None or not self.training:
            aux["dropped"] = torch.zeros((), device=chosen.device)
            return chosen
        room = ceil(self.capacity_factor * chosen[0].numel() / E)
        taken = F.one_hot(chosen.flatten(1), E).cumsum(1)  # (B, T k, E): choices of each expert so far
        full = taken.gather(-1, chosen.flatten(1)[..., None])[..., 0].view_as(chosen) > room
        aux["dropped"] = full.float().mean()
        return chosen.masked_fill(full, E)

    def dispatch(self, x: Tensor, gate: Tensor, chosen: Tensor) -> Tensor:
        """x (N,C), gate (N,k), chosen (B,T,top_k). Sort the choices by expert, run each expert on its tokens,
        add the results up."""
        E, choices = self.bias.shape[0], chosen.flatten()
        counts = F.one_hot(choices, E + 1).sum(0).tolist()
        order = choices.argsort(stable=True)[: sum(counts[:E])]
        token, weight = order // self.top_k, gate.flatten().index_select(0, order)[:, None]
        parts = x.index_select(0, token).split(counts[:E])
        y = torch.cat([expert(part, {}) for expert, part in zip(self.experts, parts, strict=True)])
        return torch.zeros_like(x).index_add(0, token, y * weight)

    def auxiliary(self, aux: dict[str, Tensor]) -> Tensor:
        """The balance loss and the router's z-loss (ST-MoE, arXiv:2202.08906, eq. 5)."""
        balance_loss_weight = aux["load"].shape[0] * (aux["load"] * aux["probability"]).sum()
        return self.balance_loss_weight * balance_loss_weight + self.router_z_loss_weight * aux["router_z"]

    @torch.no_grad()
    def after_step(self, load: Tensor) -> None:
        """Raise the bias of experts below the mean load, lower that of those above."""
        self.bias += self.bias_update_rate * (load.mean() - load).sign()

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = []
        if options.top_k > options.experts:
            wrong.append(f"chooses top_k {options.top_k} of experts {options.experts}")
        if options.top_k == 1 and options.normalisation != "all":
            wrong.append(
                f"with top_k 1 and normalisation {options.normalisation} every gate is 1: "
                "the router learns nothing of the text; normalisation=all gives it the gradient"
            )
        if hasattr(options.expert.entry.make, "auxiliary"):
            wrong.append(
                f"its expert {options.expert.name} has a loss and a report of its own, which would be lost"
            )
        return wrong
