"""Whether a stack pays on this device: a few steps of it, timed against as many of a lone run.

Small models gain where the time goes into launching kernels rather than into computing; which those are is
not to be guessed from their size. What was measured is kept in the cache for the same architecture, number of
runs, optimizers, sources and device, compiled or not.
"""

import statistics
from dataclasses import dataclass
from typing import Any

from ablate.parts.base import IncompatibleParts
from ablate.train.fit import Run
from ablate.train.request import RunRequest
from ablate.train.settings import threads
from ablate.train.speed.cuda_graph import SETTLED
from ablate.train.speed.ensemble import Ensemble, ManualTask, seat
from ablate.train.speed.ensemble_runs import family, opened
from ablate.train.speed.timing import kept, stopwatch, timing_key
from ablate.train.trainer import quiet_lightning, trainer

_ROUNDS = 5
_SHARE = 0.05  # seconds of each rival's turn in a round
_LONG = 1.0  # seconds of a lone step above which nothing is to be gained


@dataclass(frozen=True)
class EnsembleGain:
    """`ratio`: the time of the runs one after the other over that of their stack: above 1 the stack is
    faster. 0 where there can be none, for the reason given."""

    ratio: float = 0.0
    reason: str = ""


def gain(payloads: list[dict[str, Any]]) -> EnsembleGain:
    """The gain of an ensemble of the runs that the payloads (of `RunRequest`s) ask for."""
    requests = [RunRequest.read(payload) for payload in payloads]
    runs = [opened(request) for request in requests]
    optimizers = sorted({run.spec.optim.name for run in runs})
    name = timing_key(runs[0], family(runs[0].spec), len(runs), runs[0].settings.compile, optimizers)
    file = requests[0].cache / "ensembles" / f"{name}.json"
    with threads(runs[0].settings.threads):
        return kept(file, EnsembleGain, lambda: measured_ensemble_gain(runs))


def measured_ensemble_gain(runs: list[Run]) -> EnsembleGain:
    """On other models than those that are trained."""
    settings, steps = runs[0].settings, runs[0].spec.steps
    try:
        with quiet_lightning():
            lightning = trainer(runs[0].spec, settings, [])
        first = runs[0]
        lone = ManualTask(first.spec, first.stream(), settings).built_for(lightning)
        stack = Ensemble([seat(run, lightning) for run in runs], settings.compile)
        stack.prove()
    except IncompatibleParts as refusal:
        return EnsembleGain(reason=str(refusal))
    seconds = stopwatch(lone.device)

    def alone(n: int) -> None:
        lone.training_step(n % steps, n)

    def together(n: int) -> None:
        stack.step(n % steps)

    ready = 2 if lone.captured is None else SETTLED  # the first is always slow
    for _ in range(ready):
        one = seconds(alone, 1)
    if one > _LONG:
        return EnsembleGain(0.0, f"a step takes {one:.1f} s alone")
    seconds(together, ready)
    each = max(1, round(_SHARE / one))
    ratios = [len(runs) * seconds(alone, each) / seconds(together, each) for _ in range(_ROUNDS)]
    return EnsembleGain(statistics.median(ratios))
