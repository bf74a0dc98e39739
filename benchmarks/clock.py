"""Time, and rounds in which rivals take turns, so that what disturbs one disturbs all."""

import gc
import os
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Clock:
    name: str
    now: Callable[[], float]


def clock(threads: int) -> Clock:
    """Set torch's threads, and give the clock for their number. The CPU time of one thread is honest where
    others are at work; that of several counts their waiting for each other."""
    torch.set_num_threads(threads)
    return Clock("CPU time", time.process_time) if threads == 1 else Clock("wall-clock", time.perf_counter)


def arguments(about: str | None, rounds: int) -> ArgumentParser:
    """What every benchmark can be told."""
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=rounds)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=positive, default=cores, help="with 1: CPU time, else wall-clock")
    return parser


def positive(said: str) -> int:
    if int(said) < 1:
        raise ArgumentTypeError("must be at least 1")
    return int(said)


def race(
    rivals: Mapping[str, Callable[[], object]], rounds: int, each: int, clock: Clock, warm: int = 2
) -> dict[str, list[float]]:
    """Seconds of one call of each rival, by round: a round is `each` calls of every one, one after the other.
    Every other round goes backwards, so that none is always behind the same other."""
    for call in rivals.values():
        for _ in range(warm):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    gc.collect()
    for n in range(rounds):
        for name in list(rivals)[:: -1 if n % 2 else 1]:
            begin = clock.now()
            for _ in range(each):
                rivals[name]()
            seconds[name].append((clock.now() - begin) / each)
    return seconds


def ratios(a: list[float], b: list[float]) -> list[float]:
    """a / b, paired by round."""
    return [x / y for x, y in zip(a, b, strict=True)]


def kernels_of(call: Callable[[], object], times: int = 3) -> str:
    """Where the time of the GPU goes in so many calls: a table of its kernels, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(times):
            call()
        torch.cuda.synchronize()
    table: str = found.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=70)
    return table
