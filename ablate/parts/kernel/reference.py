"""Attention as it is written in the paper, with all scores: what other kernels must equal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.parts.base import AttentionPositions, Bias, Kernel, KernelRequirements, Mask, Scores
from ablate.registry import kernel


@kernel("reference", paper="arXiv:1706.03762")
class Reference(Kernel):
    """The definition: softmax(mask(softcap(q.k scale) + bias)) v, written out, the softmax in fp32.

    Vaswani et al. 2017, eq. 1. Slow, and needs B H T S numbers of memory; the others are tested
    against it.
    """

    name = "reference"

    def refuses(self, need: KernelRequirements) -> str | None:
        return None

    def prepare(
        self, mask: Mask, sight: AttentionPositions, bias: Bias | None, heads: int, dtype: torch.dtype
    ) -> Tensor:
        b = torch.zeros((), device=sight.i.device) if bias is None else bias(*sight.grid(heads))
        return torch.where(mask.dense(sight), b, -torch.inf).to(torch.promote_types(dtype, torch.float32))

    def with_scores(self, prepared: Tensor, more: Tensor) -> Tensor:
        return prepared + more

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prepared: Tensor, scores: Scores, dropout: float
    ) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        s = self.scored(q, k, prepared, scores)
        if scores.sink is not None:
            sink = scores.sink.to(s.dtype)[:, None, None].expand(*s.shape[:3], 1)
            s = torch.cat((s, sink), -1)
        p = F.dropout(s.softmax(-1)[..., : k.shape[2]], dropout)
        return p.to(v.dtype) @ v

    def scored(self, q: Tensor, k: Tensor, prepared: Tensor, scores: Scores) -> Tensor:
        """What enters the softmax, (B,H,T,S), but for the sink."""
        s = (q @ k.mT).to(prepared.dtype) * scores.scale
        if scores.softcap is not None:
            s = scores.softcap * torch.tanh(s / scores.softcap)
        return s + prepared
