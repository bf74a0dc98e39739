"""What compiling gains on this device: a few steps of a run as it is and compiled, and the compiler's time.

The compiler joins what stands between matrix products. How much that is, is not to be guessed from a model's
size. What was measured is kept in the cache for the same architecture, rows, sources and device; torch keeps
the compiled code, so the runs find it.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from ablate.train.fit import Run
from ablate.train.request import RunRequest
from ablate.train.settings import threads
from ablate.train.speed.ensemble import ManualTask
from ablate.train.speed.ensemble_runs import opened
from ablate.train.speed.timing import kept, stopwatch, timing_key
from ablate.train.trainer import quiet_lightning, trainer

_ROUNDS = 9


@dataclass(frozen=True)
class Compiled:
    """Seconds of a step as it is and compiled, and what the compiler takes once; or the reason why there is
    no compiled step."""

    eager: float = 0.0
    compiled: float = 0.0
    once: float = 0.0
    reason: str = ""


def compile_gain(payload: dict[str, Any]) -> Compiled:
    """The gain of compiling the run that the payload (of a `RunRequest`) asks for."""
    request = RunRequest.read(payload)
    run = opened(request)
    shape = [
        run.spec.model.model_dump(mode="json"),
        run.spec.rows,
        run.spec.precision,
        run.spec.data.documents,
    ]
    file = request.cache / "compiled" / f"{timing_key(run, shape)}.json"
    with threads(run.settings.threads):
        return kept(file, Compiled, lambda: measured_compile_gain(run))


def measured_compile_gain(run: Run) -> Compiled:
    """On other models than those that are trained."""
    with quiet_lightning():
        lightning = trainer(run.spec, run.settings, [])
    plain, joined = (
        ManualTask(run.spec, run.stream(), run.settings.model_copy(update={"compile": wish})).built_for(
            lightning
        )
        for wish in (False, True)
    )
    half = torch.autocast(plain.device.type, torch.bfloat16, run.spec.precision == "bf16")
    seconds = stopwatch(plain.device)

    def step(task: ManualTask) -> float:
        return seconds(lambda n: task.training_step(n, n), 1)

    with half:
        step(plain)
        begin = time.perf_counter()
        step(joined)
        once = time.perf_counter() - begin
        step(joined)
        each = [(step(plain), step(joined)) for _ in range(_ROUNDS)]
    eager, fast = (statistics.median(times) for times in zip(*each, strict=True))
    return Compiled(eager, fast, once - fast)
