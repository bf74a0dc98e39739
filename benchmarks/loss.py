"""The loss of a large vocabulary in slices of tokens against that of the whole logits, and against
`F.linear_cross_entropy` of torch in slices of the same size: forward and backward of head and loss.

    python benchmarks/loss.py [--vocabularies 32000 128000] [--width 256] [--tokens 2048] [--rounds 5]
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import arguments, clock, race, ratios
from record import Cell, Table, save
from torch import nn

from ablate.model import loss
from ablate.model.head import Head
from ablate.spec import HeadSpec

NOTE = (
    "Width {width}, {tokens} tokens, fp32, no cap and no z-loss, which torch's does not know. Memory: by\n"
    "how much a pass raises the peak of a process of its own, the gradients included."
)


def passes(vocab: int, width: int, tokens: int) -> dict[str, Callable[[], None]]:
    """One pass there and back, in each way."""
    head = Head(HeadSpec(), width, vocab)
    x = torch.randn(1, tokens, width, requires_grad=True)
    table = torch.randn(vocab, width).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(vocab, (1, tokens))
    size = loss.slice_of(tokens, vocab)

    def back(objective: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def once() -> None:
            x.grad = table.grad = None
            objective().backward()

        return once

    def torchs() -> torch.Tensor:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
        return F.linear_cross_entropy(x[0], table, targets[0], reduction="sum", options=options)

    ways = {
        "whole": back(lambda: head.whole(x[0], table, targets[0])[0].sum()),
        "slices": back(lambda: head.sums(x, table, targets).objective),
    }
    return ways | {"torch": back(torchs)} if torch_slices() else ways


def torch_slices() -> bool:
    """Whether torch has its own loss in slices: from 2.13 on."""
    return hasattr(nn, "LinearCrossEntropyOptions")


def peak() -> int:
    """KiB of this process. Unlike that of `resource`, it does not begin with the parent's."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1])


def raised(name: str, *shape: int) -> float:
    """MiB by which one pass raises the peak of this process."""
    torch.set_num_threads(1)
    once = passes(*shape)[name]
    before = peak()
    once()
    return (peak() - before) / 1024


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=2048)
    given = parser.parse_args()
    if not torch_slices():
        print(f"torch {torch.__version__} has no loss in slices, so its own is left out")
    rows: list[list[Cell]] = []
    for vocab in given.vocabularies:
        shape = (vocab, given.width, given.tokens)
        rivals = passes(*shape)
        took = race(rivals, given.rounds, 1, clock(given.threads), warm=1)
        for name in rivals:
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                memory = alone.apply(raised, (name, *shape))
            ms = [1e3 * t for t in took[name]]
            rows.append([f"{vocab:,}", name, ms, ratios(took["whole"], took[name]), memory])
    columns = ["vocabulary", "loss", "ms", "whole / this", "memory, MiB"]
    note = NOTE.format(width=given.width, tokens=f"{given.tokens:,}")
    table = Table("Large vocabularies", columns, rows, note)
    save("loss", [table], clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
