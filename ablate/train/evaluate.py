"""The loss on a whole split: every target once, whatever the number of devices."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Batch, Stream
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext


class Evaluation(NamedTuple):
    """The loss on a split: sums, so that parts of it can be added."""

    nll: float  # the sum over targets, in nats
    tokens: int  # targets
    by_document: Sequence[float] = ()  # the sum over the targets of each document of the split
    document_tokens: Sequence[int] = ()

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens


def evaluate(
    decoder: Decoder,
    split: Split,
    context: int,
    documents: Literal["joined", "masked"],
    rows: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    tokens: int | None = None,
    by_document: bool = False,
    prefix: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Without gradients or dropout; deterministic. `rows` are those of one pass over all ranks, which must
    call it together; `tokens` stops after the first windows that hold so many. `between` is called between
    batches. The decoder is left in the mode in which it was. Raises ValueError for a split without a target.
    """
    ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = decoder.embedding.weight.device
    size = len(split.document_offsets) if by_document else 1
    nll = torch.zeros(size, dtype=torch.float64, device=device)
    count = torch.zeros(size, dtype=torch.int64, device=device)
    windows = None if tokens is None else -(-tokens // context)
    stream = Stream(split, context, documents, seed=0, prefix=prefix)
    with (
        evaluating(decoder),
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, precision == "bf16"),
    ):
        for n, batch in enumerate(stream.evaluation_batches(rows, ranks, by_document)):
            if windows is not None and n * rows >= windows:
                break
            if windows is not None:
                mine = len(batch.targets)
                batch.targets[max(0, windows - n * rows - ranks[0] * mine) :] = NO_LOSS
            given = on_device(batch, device)
            call = ForwardContext(given.positions, given.document, given.prefix, real=given.real)
            out = decoder(given.tokens, call, targets=given.targets)
            losses, numbers = sums(out.nll, batch.targets, batch.document_index, size)
            nll += losses
            count += numbers
            between()
        nll, count = over_ranks(nll), over_ranks(count)
    total = int(count.sum())
    if total == 0:
        raise ValueError(f"data: the {split.name} split has no target to be evaluated on")
    if not by_document:
        return Evaluation(float(nll.sum()), total)
    return Evaluation(float(nll.sum()), total, nll.tolist(), count.tolist())


def sums(nll: Tensor, targets: Tensor, document_index: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Of losses (B,T) and their number: for each document, or (1,) for all."""
    device = nll.device
    if document_index is None:
        return nll.double().sum()[None], to_device((targets != NO_LOSS).sum()[None], device)
    has = (targets != NO_LOSS).flatten()
    index = document_index.flatten()[has]  # on the CPU, where the order of addition is fixed
    loss = torch.bincount(index, nll.cpu().double().flatten()[has], minlength=size)
    return loss.to(device), torch.bincount(index, minlength=size).to(device)


def over_ranks(mine: Tensor) -> Tensor:
    """The sum over all ranks, added up in their order on each."""
    if not dist.is_initialized():
        return mine
    each = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(each, mine)
    return torch.stack(each).sum(0)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """`owner` stays: it is not for the model."""
    given = (None if x is None else to_device(x, device) for x in batch[:-1])
    return Batch(*given, document_index=batch.document_index)  # type: ignore[arg-type, misc]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; through pinned memory, since from other memory a copy may wait for all that
    the device still does."""
    return x if device.type == "cpu" else x.contiguous().pin_memory().to(device, non_blocking=True)


@contextmanager
def evaluating(decoder: Decoder) -> Iterator[None]:
    """Put the decoder into evaluation mode, and back afterwards."""
    was = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was)
