from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ablate.registry import Factory, Part, ffn, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@ffn("moe", paper="arXiv:1701.06538")
class MoE(nn.Module):
    """y = sum over the top k experts of gate_e(x) expert_e(x).

    Shazeer et al. 2017. The router works in fp32. `score` says when the softmax is taken: over the
    selected logits (`after`, Mixtral), over all before the selection, the selected then renormalised
    (`renormalised`, GShard) or not (`before`, Switch), or sigmoids, renormalised (`sigmoid`, DeepSeek-V3).
    Dropless, unless `capacity` c is given: an expert takes at most ceil(c k T / E) tokens of a call, in
    their order, and what is over is dropped from that expert and counted. Evaluation never drops.

    The ledger receives `load` (E,), the share of the choices that went to each expert, `probability` (E,),
    the mean of the router's probabilities, `router_z` and `dropped`. The balance loss is
    E sum_e load_e probability_e (Switch, eq. 4), the load taken over the whole batch by the training step.
    `bias_step` balances without a loss: a bias on the selection moves against the load (arXiv:2408.15664).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        expert: Annotated[Factory, Part("ffn")] = use("glu"),
        experts: Annotated[int, Gt(0)] = 8,
        k: Annotated[int, Gt(0)] = 2,
        shared: Annotated[int, Ge(0)] = 0,
        score: Literal["after", "before", "renormalised", "sigmoid"] = "after",
        capacity: Annotated[float, Gt(0)] | None = None,
        balance: Annotated[float, Ge(0)] = 0.01,
        router_z: Annotated[float, Ge(0)] = 0.0,
        bias_step: Annotated[float, Ge(0)] = 0.0,
    ):
        super().__init__()
        self.k, self.score, self.capacity = k, score, capacity
        self.balance, self.router_z, self.bias_step = balance, router_z, bias_step
        self.router = nn.Linear(shape.width, experts, bias=False)
        self.experts = nn.ModuleList(expert(shape) for _ in range(experts))
        self.shared = nn.ModuleList(expert(shape) for _ in range(shared))
        self.register_buffer("bias", torch.zeros(experts))
        self.constants = {"bias": 0.0}

    def forward(self, x: Tensor, ledger: dict[str, Tensor]) -> Tensor:
        tokens = x.flatten(0, -2)  # (N, C)
        gate, chosen = self.route(tokens, ledger)
        y = self.dispatch(tokens, gate.to(x.dtype), chosen, ledger)
        for expert in self.shared:
            y = y + expert(tokens, ledger)
        return y.view_as(x)

    def route(self, x: Tensor, ledger: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The gates (N,k) in fp32 and the chosen experts (N,k)."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.router.weight.float())
        probability = logits.sigmoid() if self.score == "sigmoid" else logits.softmax(-1)
        chosen = (probability + self.bias).topk(self.k, -1).indices
        gate = probability.gather(-1, chosen)
        if self.score == "after":
            gate = logits.gather(-1, chosen).softmax(-1)
        elif self.score != "before":
            gate = gate / gate.sum(-1, keepdim=True)
        E = self.bias.shape[0]
        ledger["load"] = F.one_hot(chosen, E).sum((0, 1)) / chosen.numel()
        ledger["probability"] = (probability / probability.sum(-1, keepdim=True)).mean(0)
        ledger["router_z"] = logits.logsumexp(-1).square().mean()
        return gate, chosen

    def dispatch(self, x: Tensor, gate: Tensor, chosen: Tensor, ledger: dict[str, Tensor]) -> Tensor:
        """Sort the choices by expert, run each expert on its tokens, add the results up."""
        N, E = x.shape[0], self.bias.shape[0]
        order = chosen.flatten().argsort(stable=True)  # by expert, tokens in their order
        counts = F.one_hot(chosen, E).sum((0, 1)).tolist()
        token, gate = order // self.k, gate.flatten()[order]
        room = -(-int(self.capacity * N * self.k) // E) if self.capacity and self.training else N
        taken = [share[:room] for share in torch.arange(len(order), device=x.device).split(counts)]
        kept = torch.cat(taken)
        ledger["dropped"] = torch.tensor(1 - len(kept) / len(order), device=x.device)
        y = torch.cat([expert(x[token[share]], ledger) for expert, share in zip(self.experts, taken, strict=True)])
        return torch.zeros_like(x).index_add(0, token[kept], y * gate[kept, None])

    def auxiliary(self, ledger: dict[str, Tensor]) -> Tensor:
        """The balance loss and the router's z-loss (ST-MoE, arXiv:2202.08906, eq. 5)."""
        balance = ledger["load"].shape[0] * (ledger["load"] * ledger["probability"]).sum()
        return self.balance * balance + self.router_z * ledger["router_z"]

    @torch.no_grad()
    def after_step(self, load: Tensor) -> None:
        """Raise the bias of experts below the mean load, lower that of those above."""
        self.bias += self.bias_step * (load.mean() - load).sign()

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        if options.k > options.experts:
            return [f"chooses k {options.k} of experts {options.experts}"]
        return []
