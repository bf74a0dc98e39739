"""What is measured on this device once, and kept in the cache."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from ablate.provenance import provenance
from ablate.record import atomic
from ablate.spec import digest
from ablate.train.fit import Run, first_line
from ablate.train.settings import torch_device

T = TypeVar("T")


def kept(file: Path, kind: Callable[..., T], measure: Callable[[], T]) -> T:
    """The dataclass `kind` that the file holds; where it holds none, what `measure` finds, kept there. What
    fails may succeed another time: then `kind` has a `reason` alone, and nothing is kept."""
    with suppress(OSError, ValueError, TypeError):
        return kind(**json.loads(file.read_text()))
    try:
        found = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as f:
            f.write(json.dumps(asdict(found)).encode())  # type: ignore[call-overload]
    except Exception as error:
        return kind(reason=f"{type(error).__name__}: {first_line(error)}")
    return found


def timing_key(run: Run, *more: Any) -> str:
    """The same for the same sources, number of threads, device and `more`."""
    settings = run.settings
    origin = provenance(torch_device(settings), 1, settings.strategy)
    device = {name: origin[name] for name in ("device_kind", "torch", "cores")}
    return digest([*more, run.source_hash, settings.threads, device])


def stopwatch(device: torch.device) -> Callable[[Callable[[int], None], int], float]:
    """Seconds of so many calls: CPU time, which other processes leave alone, or wall-clock of a GPU."""
    gpu = device.type == "cuda"
    now = time.perf_counter if gpu or torch.get_num_threads() > 1 else time.process_time

    def seconds(call: Callable[[int], None], times: int) -> float:
        begin = now()
        for n in range(times):
            call(n)
        if gpu:
            torch.cuda.synchronize(device)
        return now() - begin

    return seconds
