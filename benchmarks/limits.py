"""What this machine can do at most: the rate of matrix products, and of reading memory.

    python benchmarks/limits.py [--rounds 7] [--threads 2]

At the shapes of the 7M model of step.py (tokens x in, in x out) and at a large square; with one thread, and
with as many as asked for.
"""

import torch
from clock import arguments, clock, race
from record import Cell, Table, save
from rivals import SIZES

from ablate.parts.base import DTYPES
from ablate.parts.linear import ONEDNN, onednn

LARGE = 2048
BYTES = 2**28  # far more than the caches hold
NOTE = """FLOPs of a product are 2 m k n. `read` is the sum of 256 MiB; `copy` reads and writes as many
bytes, and both count. With one thread the clock is CPU time, else wall-clock."""


def shapes() -> dict[str, tuple[int, int, int]]:
    size = SIZES["7M"]
    C, H, V = size.width, size.hidden, size.vocab
    found = {f"{size.tokens} x {m} x {n}": (size.tokens, m, n) for m, n in ((C, C), (C, H), (H, C), (C, V))}
    return found | {f"{LARGE} x {LARGE} x {LARGE}": (LARGE, LARGE, LARGE)}


def products(threads: int, rounds: int) -> dict[str, list[float]]:
    """GFLOP/s by what was multiplied."""
    calls, flops = {}, {}
    for precision, dtype in DTYPES.items():
        for name, (m, k, n) in shapes().items():
            x, w = torch.rand(m, k).to(dtype), torch.rand(n, k).to(dtype)
            label = f"{precision}, {name}"
            calls[label] = lambda x=x, w=w: torch.mm(x, w.T)
            flops[label] = 2 * m * k * n
            if dtype == torch.float32 and ONEDNN:
                label = f"{precision} by oneDNN, {name}"
                calls[label] = lambda x=x, w=w: onednn(x, w)
                flops[label] = 2 * m * k * n
    took = race(calls, rounds, 3, clock(threads))
    return {name: [flops[name] / t / 1e9 for t in times] for name, times in took.items()}


def memory(threads: int, rounds: int) -> dict[str, list[float]]:
    """GB/s by what was done."""
    source, target = torch.rand(BYTES // 4), torch.rand(BYTES // 4)
    took = race({"read": source.sum, "copy": lambda: target.copy_(source)}, rounds, 1, clock(threads))
    return {name: [BYTES * (1 + (name == "copy")) / t / 1e9 for t in times] for name, times in took.items()}


def main() -> None:
    given = arguments(__doc__, rounds=7).parse_args()
    counts = sorted({1, given.threads})
    tables = []
    for title, unit, measured in (("Matrix products", "GFLOP/s", products), ("Memory", "GB/s", memory)):
        found = [measured(threads, given.rounds) for threads in counts]
        rows: list[list[Cell]] = [[name, *(by[name] for by in found)] for name in found[0]]
        columns = ["what", *(f"{unit}, {n} thread{'s' * (n > 1)}" for n in counts)]
        tables.append(Table(title, columns, rows, NOTE if not tables else ""))
    save("limits", tables, clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
