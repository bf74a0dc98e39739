"""Whether a stack pays on this device: a few steps of it, timed against as many of a lone run.

Small models gain where the time goes into launching kernels rather than into computing; which those are is
not to be guessed from their size. What was measured is kept in the cache for the same architecture, number of
runs, sources and device.
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ablate.parts.base import Refused
from ablate.record import atomic
from ablate.spec import digest
from ablate.train.fit import Run, out_of_memory
from ablate.train.recorder import provenance
from ablate.train.replicas import family, opened
from ablate.train.settings import accelerator
from ablate.train.stack import Seat, Stack
from ablate.train.trainer import hushed, trainer

ROUNDS = 5
SHARE = 0.05  # seconds of each rival's turn in a round
LONG = 1.0  # seconds of a lone step above which nothing is to be gained


@dataclass(frozen=True)
class Gain:
    """`ratio`: the time of the runs one after the other over that of their stack: above 1 the stack is
    faster. 0 where there can be none, for the reason given."""

    ratio: float
    reason: str = ""


def gain(payloads: list[dict[str, Any]]) -> Gain:
    """Of the stack of the runs that the payloads ask for."""
    runs = [opened(payload) for payload in payloads]
    file = Path(payloads[0]["cache"]) / "replicas" / f"{_key(runs)}.json"
    with suppress(OSError, ValueError, TypeError):
        return Gain(**json.loads(file.read_text()))
    found = measured(runs)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as f:
        f.write(json.dumps(asdict(found)).encode())
    return found


def _key(runs: list[Run]) -> str:
    settings = runs[0].settings
    origin = provenance("cuda" if accelerator(settings) == "gpu" else "cpu", 1, settings.strategy)
    device = {name: origin[name] for name in ("device_kind", "torch", "cores")}
    return digest([family(runs[0].spec), runs[0].code, len(runs), settings.threads, device])


def measured(runs: list[Run]) -> Gain:
    """On other models than those that are trained."""
    settings, steps = runs[0].settings, runs[0].spec.steps
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        with hushed():
            lightning = trainer(runs[0].spec, settings, [])
        lone, *seats = (
            Seat(run.spec, run.stream(), run.settings).take_seat(lightning) for run in [runs[0], *runs]
        )
        stack = Stack(seats)
        stack.prove()
    except Refused as refusal:
        return Gain(0.0, str(refusal))
    except Exception as error:
        if out_of_memory(error):
            return Gain(0.0, f"the stack is too large: {error}")
        raise
    seconds = _clock(lone.device)

    def alone(n: int) -> None:
        lone.training_step(n % steps, n)

    def together(n: int) -> None:
        stack.step(n % steps)

    for _ in range(2):  # the first is always slow
        one = seconds(alone, 1)
    if one > LONG:
        return Gain(0.0, f"a step takes {one:.1f} s alone")
    seconds(together, 2)
    each = max(1, round(SHARE / one))
    ratios = [len(runs) * seconds(alone, each) / seconds(together, each) for _ in range(ROUNDS)]
    return Gain(statistics.median(ratios))


def _clock(device: torch.device) -> Callable[[Callable[[int], None], int], float]:
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
