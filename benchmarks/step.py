"""One training step against the same model in transformers, litgpt and x-transformers.

    python benchmarks/step.py [--rounds 5] [--threads 2] [--cases 7M/eager/fp32 ...]

LLaMA-shaped models of three sizes; forward, backward and fused AdamW. All rivals take turns in one process,
with the same threads and the same allocator; every case has a process of its own. Takes its turn too: the
step's matrix products alone, which is the rate that the machine reaches at these shapes.
"""

import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import NamedTuple

import torch
from clock import arguments, clock, race, ratios
from record import Cell, Table, save
from rivals import SIZES, Products, built, spec, step

from ablate.model.measure import measure_model

PRODUCTS = "the products alone"
KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}

BEST = (
    "Tokens/s of ablate over those of the peer of the best median, paired by round: above 1 ablate is faster."
)
ALL = """FLOPs are those of `ablate.model.measure` (matrix products and causal attention, three times the
forward pass). The products alone are the forward and both backward matrix products of every linear layer, and
no more: the rate that this machine reaches at these shapes. "Pages kept" raises glibc's mmap and trim
thresholds, for all rivals alike (`KEEPING` in `benchmarks/step.py`)."""


class Case(NamedTuple):
    size: str
    mode: str  # eager | compiled
    precision: str  # fp32 | bf16
    allocator: str = "default"  # | keeping: freed pages stay with the process

    @property
    def name(self) -> str:
        return " ".join(self[:3]) + ("" if self.allocator == "default" else ", pages kept")


CASES = [
    *(Case(size, "eager", precision) for size in SIZES for precision in ("fp32", "bf16")),
    *(Case(size, "compiled", precision) for size in ("1M", "7M") for precision in ("fp32", "bf16")),
    Case("7M", "eager", "fp32", "keeping"),
]


def seconds(case: Case, rounds: int, threads: int) -> dict[str, list[float]]:
    """Of one step, by rival and round."""
    size, bf16 = SIZES[case.size], case.precision == "bf16"
    time = clock(threads)
    steps = {}
    for name, model, loss in built(size):
        if case.mode == "compiled":
            model.compile()
        steps[name] = step(model, loss, size, bf16)
    steps[PRODUCTS] = Products(size, torch.bfloat16 if bf16 else torch.float32)
    each = {"1M": 8, "7M": 2, "125M": 1}[case.size]
    return race(steps, rounds, each, time, warm=1 if case.size == "125M" else 3)


@contextmanager
def allocator(case: Case) -> Iterator[None]:
    """For the processes started meanwhile."""
    before = dict(os.environ)
    if case.allocator == "keeping":
        os.environ.update(KEEPING)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def tables(found: dict[Case, dict[str, list[float]]]) -> list[Table]:
    every: list[list[Cell]] = []
    best: list[list[Cell]] = []
    for case, took in found.items():
        size = SIZES[case.size]
        work = measure_model(spec(size)).training_flops * size.tokens
        products = Products(size, torch.float32).flops
        for name, times in took.items():
            flops = products if name == PRODUCTS else work
            rate = [flops / t / 1e9 for t in times]
            share = [(flops / t) / (products / p) for t, p in zip(times, took[PRODUCTS], strict=True)]
            rivals = name != PRODUCTS
            speed = [size.tokens / t for t in times] if rivals else None
            lead = ratios(times, took["ablate"]) if rivals else None
            every.append([case.name, name, speed, rate, share, lead])
        peers = [name for name in took if name not in ("ablate", PRODUCTS)]
        if peers:
            peer = min(peers, key=lambda name: statistics.median(took[name]))
            best.append([case.name, peer, ratios(took[peer], took["ablate"])])
    columns = ["model", "rival", "tokens/s", "GFLOP/s", "share of the products' rate", "ablate / it"]
    return [
        Table("Against the best peer", ["model", "the best peer", "ablate / it"], best, BEST),
        Table("All", columns, every, ALL),
    ]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    every = {"/".join(case).removesuffix("/default"): case for case in CASES}
    said = f"some of them are printed, and not kept: {' '.join(every)}"
    parser.add_argument("--cases", nargs="+", default=list(every), choices=every, metavar="CASE", help=said)
    given = parser.parse_args()
    found = {}
    for case in (every[name] for name in given.cases):
        with allocator(case), ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found[case] = pool.submit(seconds, case, given.rounds, given.threads).result()
        print(
            case.name, {name: round(statistics.median(t), 4) for name, t in found[case].items()}, flush=True
        )
    if given.cases == list(every):
        save("step", tables(found), clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
