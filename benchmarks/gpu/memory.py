"""The limits of the card, and the memory of a step against its rows."""

import statistics
from collections.abc import Callable

import torch
from record import Cell, Table
from rivals import MAKERS, Size, installed

from gpu.processes import SHAPES, finish, lap, stepping


def limits() -> tuple[float, float]:
    """(FLOP/s of a large product in bf16, bytes/s of a copy, read and written)."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(2**29, device="cuda")
    y = torch.empty_like(x)
    return 2 * 8192**3 / timed(lambda: a @ b), 2 * x.numel() * 4 / timed(lambda: y.copy_(x))


def timed(call: Callable[[], object], times: int = 10) -> float:
    """Seconds of one call: the median of five turns."""
    for _ in range(3):
        call()
    return statistics.median(lap(call, times) for _ in range(5))


def memory() -> Table:
    """Peaks of eager steps of 125M at context 1024, by rows. Large vocabularies make the difference."""
    rows_of_step = (4, 8, 16, 32)
    table: list[list[Cell]] = []
    for name in filter(installed, MAKERS):
        table.append([name, *(cell for rows in rows_of_step for cell in peak_and_speed(name, rows))])
        print(table[-1], flush=True)
    columns = ["rival", *(f"{what}, {rows} rows" for rows in rows_of_step for what in ("GiB", "tokens/s"))]
    return Table("Memory and speed of eager steps, by rows: 125M, context 1024", columns, table)


def peak_and_speed(rival: str, rows: int) -> list[Cell]:
    """GiB and tokens/s; nothing where there is no room."""
    torch.cuda.empty_cache()  # of the one before
    try:
        once = stepping(rival, Size("125M", *SHAPES["125M"], 1024, rows))
        once()
        torch.cuda.reset_peak_memory_stats()
        once()
        finish()
        return [round(torch.cuda.max_memory_allocated() / 2**30, 2), rows * 1024 / timed(once, 1)]
    except torch.OutOfMemoryError:
        return [None, None]
