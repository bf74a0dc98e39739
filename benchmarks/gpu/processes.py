"""Rivals, each in a process of its own, that take turns on the GPU."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from clock import kernels_of
from rivals import MAKERS, Size, step

TOKENS = 16_384  # of a step
CONTEXTS = (1024, 4096)
STEPS = 8  # of one turn, or as many as take a second
PATIENCE = 60  # seconds, in which a process whose memory others hold tries again
WINDOW = {1024: 256, 4096: 1024}
SHAPES = {"125M": (25_600, 768, 12, 12, 2048), "350M": (25_600, 1024, 24, 16, 2736)}
PARTS = {
    "rope": {"kernel": "sdpa"},
    "alibi, flex": {"position": "alibi", "kernel": "flex"},
    "alibi, flash": {"position": "alibi", "kernel": "flash"},
    "window, flex": {"kernel": "flex"},
    "window, flash": {"kernel": "flash"},
    "t5, sdpa": {"position": "t5", "kernel": "sdpa"},
}


class Case(NamedTuple):
    rival: str
    size: str
    context: int
    part: str = "rope"

    @property
    def shape(self) -> Size:
        return Size(self.size, *SHAPES[self.size], self.context, TOKENS // self.context)

    @property
    def changes(self) -> dict[str, Any]:
        """Of the specification."""
        window = WINDOW[self.context] if self.part.startswith("window") else None
        return {"attention": {"name": "softmax", "window": window}, **PARTS[self.part]}


def serve(case: Case, pipe: Connection, profile: bool) -> None:
    """Compile, say what it took; then answer each call with the seconds of a step and the peak of memory."""
    try:
        begin = time.perf_counter()
        once = patiently(lambda: built(case))
        for _ in range(3):
            patiently(once)
        pipe.send(time.perf_counter() - begin)
        while pipe.recv():
            torch.cuda.reset_peak_memory_stats()
            first = lap(once, 1)
            times = max(1, min(STEPS, int(1 / first)))
            pipe.send((lap(once, times), torch.cuda.max_memory_allocated()))
            torch.cuda.empty_cache()
        if profile:
            print(case, kernels_of(once), flush=True)
    except Exception:
        pipe.send(traceback.format_exc())


def patiently(call: Callable[[], Any]) -> Any:
    """All processes are compiled at the same time, and not always is there room for the steps of all."""
    end = time.perf_counter() + PATIENCE
    while True:
        try:
            found = call()
            finish()
            torch.cuda.empty_cache()
            return found
        except RuntimeError as error:
            full = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
            if not full or time.perf_counter() > end:
                raise
        torch.cuda.empty_cache()
        time.sleep(1)


def built(case: Case) -> Callable[[], None]:
    torch.manual_seed(0)
    return stepping(case.rival, case.shape, case.changes, compiled=True)


def stepping(
    rival: str, size: Size, changes: dict[str, Any] | None = None, compiled: bool = False
) -> Callable[[], None]:
    model, loss = MAKERS["ablate"](size, "cuda", changes) if rival == "ablate" else MAKERS[rival](size)
    model.to("cuda")
    if compiled:
        model.compile()
    return step(model, loss, size, bf16=True, device="cuda")


def lap(call: Callable[[], object], times: int) -> float:
    """Seconds of one call."""
    finish()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    finish()
    return (time.perf_counter() - begin) / times


def finish() -> None:
    torch.cuda.synchronize()


class Rival:
    def __init__(self, case: Case, profile: bool):
        self.case = case
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(case, theirs, profile), daemon=True)
        self.process.start()

    def hear(self) -> Any:
        """What it says. Raises RuntimeError where it failed, and EOFError where it died."""
        said = self.pipe.recv()
        if isinstance(said, str):
            raise RuntimeError(said)
        return said

    def turn(self) -> tuple[float, int]:
        self.pipe.send(True)
        found: tuple[float, int] = self.hear()
        return found

    def end(self) -> None:
        self.pipe.send(False)
        self.process.join(60)


@contextmanager
def rivals(cases: Sequence[Case], profile: str) -> Iterator[list[Rival]]:
    """Those that could be compiled."""
    started = [Rival(case, case.rival == "ablate" and case.part in profile.split("+")) for case in cases]
    ready = []
    for rival in started:
        try:
            print(rival.case, f"compiled in {rival.hear():.0f} s", flush=True)
            ready.append(rival)
        except (RuntimeError, EOFError) as error:
            print(rival.case, "failed:", error, flush=True)
    yield ready
    for rival in ready:
        rival.end()


Found = dict[Case, list[tuple[float, int]]]  # seconds of a step, and peak of memory in bytes, by round


def compete(cases: Sequence[Case], rounds: int, profile: str) -> Found:
    """Of those that made all rounds."""
    with rivals(cases, profile) as ready:
        found: Found = {rival.case: [] for rival in ready}
        for n in range(rounds):
            for rival in ready[:: -1 if n % 2 else 1]:
                try:
                    found[rival.case].append(rival.turn())
                except (RuntimeError, EOFError, OSError) as error:
                    print(rival.case, "failed:", error, flush=True)
                    ready.remove(rival)
                    del found[rival.case]
                    continue
                print(rival.case, f"{1e3 * found[rival.case][-1][0]:.1f} ms", flush=True)
    return found
