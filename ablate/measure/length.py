"""The loss of windows longer than those of training, on the same targets for every length."""

import logging
import math
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ablate.data.prepare import Prepared
from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Stream
from ablate.measure import Measured
from ablate.measure.segment import segment
from ablate.measure.trained import Trained
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import measure
from ablate.train.evaluate import evaluating

log = logging.getLogger("ablate.measure")


class Region(NamedTuple):
    """The targets on which every length is measured: tokens `lead + 1` to `lead + targets` of the split."""

    lead: int  # tokens in front, which only give context
    targets: int
    multiples: tuple[int, ...]  # the lengths for which the text suffices


@measure("length", paper="arXiv:2108.12409")
class Length:
    """Loss, perplexity and its ratio to that of the training context, at multiples of it (Press et al. 2022).

    `whole`: the text is cut into windows, and every target counts (non-overlapping, as in the paper's
    tables). `sliding`: windows begin every `stride` tokens, and the last `stride` targets of each count, so
    that none has less context than the window's length less `stride` (the paper's appendix B). All lengths
    of both kinds count the very same targets. Their difference, `early`, is what the targets with little
    context cost.

    `stride` null: the largest divisor of the training context that is at most 64 and at most half of it.
    `tokens` bounds the targets. A length that the positions cannot name, or that the text is too short for,
    gets no number; the log says why, and `length/reach` and `length/longest` show it.
    """

    reads_splits = ("heldout",)
    metrics = ("whole/*/*x", "sliding/*/*x", "early/*x", "longest", "targets", "reach")

    def __init__(
        self,
        *,
        multiples: tuple[Annotated[int, Ge(1)], ...] = (1, 2, 4, 8),
        tokens: Annotated[int, Gt(0)] = 8192,
        stride: Annotated[int, Gt(0)] | None = None,
        buckets: Annotated[int, Gt(0)] = 8,
        pass_tokens: Annotated[int, Gt(0)] = 8192,
    ):
        """`buckets` are those of one training context in the loss by position; `pass_tokens` bounds the
        tokens of a forward pass, which holds a window at least. Raises ValueError without the multiple 1."""
        if 1 not in multiples:
            raise ValueError(
                "length: multiples must hold 1, the training context, to which the others relate"
            )
        self.multiples = tuple(sorted(set(multiples)))
        self.tokens, self.stride, self.buckets, self.pass_tokens = tokens, stride, buckets, pass_tokens

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        decoder, spec = trained.decoder, trained.record.spec
        if spec["data"].get("prefix"):
            raise ValueError("length: every token is to be a target, and data.prefix=true takes some away")
        context, split = decoder.spec.context, prepared.splits["heldout"]
        documents, precision = spec["data"]["documents"], spec["precision"]
        stride = stride_of(context, self.stride)
        region = region_of(len(split.tokens), context, self.multiples, self.tokens)
        reach = reach_of(decoder)
        metrics: dict[str, float] = {} if reach is None else {"length/reach": float(reach)}
        vectors: dict[str, list[float]] = {}
        whole: dict[int, float] = {}
        sliding: dict[int, float] = {}
        for n in region.multiples:
            length = n * context
            if reach is not None and length > reach:
                log.warning("length: the positions end at %d, so %dx (%d) has no number", reach, n, length)
                continue
            rows = max(1, min(self.pass_tokens, region.targets) // length)

            def by_place(first: int, length: int = length, rows: int = rows) -> Tensor:
                text = segment(split, first, region.targets + 1)
                return place_losses(decoder, text, length, documents, precision, rows)

            total = by_place(region.lead)
            whole[n] = loss_of(total)
            ends = range(stride, length + 1, stride)
            tails = sum(by_place(region.lead + end - length)[:, -stride:] for end in ends)
            assert isinstance(tails, Tensor)
            sliding[n] = loss_of(tails)
            metrics[f"length/early/{n}x"] = whole[n] - sliding[n]
            metrics["length/longest"] = float(n)
            metrics["length/targets"] = float(total[1].sum())
            filled = in_buckets(total, context, self.buckets)
            if filled is not None:
                vectors[f"length/by_position/{n}x"] = filled
        for n in set(self.multiples) - set(region.multiples):
            log.warning("length: the heldout split is too short for %dx", n)
        for kind, losses in (("whole", whole), ("sliding", sliding)):
            for n, loss in losses.items():
                metrics[f"length/{kind}/loss/{n}x"] = loss
                metrics[f"length/{kind}/perplexity/{n}x"] = math.exp(min(loss, 700.0))
                metrics[f"length/{kind}/ratio/{n}x"] = math.exp(min(loss - losses[1], 700.0))
        return Measured(metrics, vectors)


def reach_of(decoder: Decoder) -> int | None:
    """The number of positions that all schemes of a model can name; None: no limit."""
    limits = [scheme.max_positions for scheme in decoder.positions if scheme.max_positions is not None]
    return min(limits, default=None)


def stride_of(context: int, stride: int | None) -> int:
    """See `Length`. Raises ValueError for a stride that does not divide the context."""
    if stride is None:
        most = min(64, max(1, context // 2))
        return max(d for d in range(1, most + 1) if context % d == 0)
    if context % stride:
        raise ValueError(f"length: stride {stride} must divide the training context {context}")
    return stride


def region_of(available: int, context: int, multiples: tuple[int, ...], tokens: int) -> Region:
    """The same for every model of a context on a text of `available` tokens. The windows of each length that
    fits tile it. Raises ValueError where not even the training context fits."""
    for count in range(len(multiples), 0, -1):
        fitting = multiples[:count]
        lead, tile = fitting[-1] * context, math.lcm(*fitting) * context
        room = (available - 1 - lead) // tile
        if room >= 1:
            return Region(lead, tile * max(1, min(tokens // tile, room)), fitting)
    raise ValueError(
        f"data: the heldout split has {available} tokens; length needs {2 * context + 1} for a context of "
        f"{context}"
    )


@torch.no_grad()
def place_losses(
    decoder: Decoder,
    split: Split,
    length: int,
    documents: Literal["joined", "masked"],
    precision: Literal["fp32", "bf16"],
    rows: int,
) -> Tensor:
    """Windows of `length`, one after the other: (2, length), the sum of the losses and the number of targets
    at each place of a window."""
    device = decoder.embedding.weight.device
    found = torch.zeros(2, length, dtype=torch.float64)
    with evaluating(decoder), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
        for batch in Stream(split, length, documents, seed=0).evaluation_batches(rows):
            document = None if batch.document is None else batch.document.to(device)
            targets = batch.targets.to(device)
            out = decoder(
                batch.tokens.to(device), ForwardContext(batch.positions.to(device), document), targets=targets
            )
            found[0] += out.nll.double().sum(0).cpu()
            found[1] += (batch.targets != NO_LOSS).sum(0)
    return found


def loss_of(found: Tensor) -> float:
    """Nats per token. Raises ValueError where there is no target."""
    if not found[1].sum():
        raise ValueError("length: the heldout split has no target in the text that every length shares")
    return float(found[0].sum() / found[1].sum())


def in_buckets(found: Tensor, context: int, buckets: int) -> list[float] | None:
    """Mean losses over places, `buckets` to each training context. None where a bucket has no target."""
    place = torch.arange(found.shape[1]) * buckets // context
    sums = torch.zeros(2, int(place[-1]) + 1, dtype=torch.float64).index_add_(1, place, found)
    if not sums[1].all():
        return None
    return (sums[0] / sums[1]).tolist()
