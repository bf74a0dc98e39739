"""Several runs of one small model: as a stack, against the same runs one after the other.

    python benchmarks/replicas.py [--sizes 0.01M] [--numbers 2 4 8] [--rounds 5] [--threads 1] [--device cpu]

A rival makes one optimizer step of each of N runs (batches, forward, backward, clipping, AdamW); all take
turns in one process. What a study does without stacks is one run after the other in each of its slots, so
the ratio is what a slot gains. Alone, products go through oneDNN where MKL is slow (`ablate.parts.linear`),
and in a stack through MKL everywhere: the second ratio is what stacking gains.

With `--device gpu` the rivals are a step of one run and a step of the stack, each as it is, captured as a
CUDA graph, and compiled besides.
"""

import os
import sys
from collections.abc import Callable, Sequence

import torch
from clock import Clock, arguments, clock, kernels_of, race, ratios
from record import Cell, Table, save

from ablate.cli.composer import Composer
from ablate.parts import linear
from ablate.train.fit import Run
from ablate.train.speed.ensemble import Ensemble, ManualTask
from ablate.train.trainer import quiet_lightning, trainer

# Parameters without the embedding, about: the smallest models of which studies are made.
SIZES = {
    "0.01M": ["model.width=16", "model.depth=3", "model.heads=2", "model.context=64"],
    "0.05M": ["model.width=32", "model.depth=4", "model.heads=4", "model.context=64"],
    "0.2M": ["model/size=0.2M", "model.context=128"],
    "1M": ["model/size=tiny", "model.context=128"],
}
ROWS = 8
TOKENS = {size: ROWS * (64 if size in ("0.01M", "0.05M") else 128) for size in SIZES}  # of a step
NOTE = """A step of one run has 512 tokens in the two smaller sizes, 1,024 in the others. Above 1 the stack is
faster than one run after the other in the same slot."""


GPU_NOTE = """In fp32, for in bf16 the order of additions shows. The last ratio is what a stack takes of the
time of one run, both compiled and captured."""
WAYS = {"as it is": (False, False), "captured": (False, True), "compiled and captured": (True, True)}


def seats(size: str, number: int, device: str, more: Sequence[str] = ()) -> list[ManualTask]:
    """Tasks of one architecture, each with its seed and rate, at their beginning."""
    overrides = ["data/tokenizer=bytes", "budget.tokens=10000000", f"trainer.accelerator={device}", *more]
    overrides += [*SIZES[size], f"budget.batch_tokens={TOKENS[size]}"]
    compose = Composer("cache")
    found = []
    with quiet_lightning():
        for n in range(number):
            todo = compose.job([*overrides, f"seed={n}", f"optim.lr={1e-3 * (1 + n / 4)}"])
            run = Run(todo.request(), todo.prepared)
            found.append(
                ManualTask(run.spec, run.stream(), run.settings).built_for(
                    trainer(run.spec, run.settings, [])
                )
            )
    return found


def steps(size: str, number: int) -> dict[str, Callable[[], None]]:
    lone, stacked = seats(size, number, "cpu"), seats(size, number, "cpu")
    stack = Ensemble(stacked)
    stack.prove()

    def alone() -> None:
        for task in lone:
            task.training_step(task.steps.done, 0)

    def together() -> None:
        stack.step(stacked[0].steps.done)

    def through_mkl() -> None:
        linear.BY_HAND, before = False, linear.BY_HAND
        alone()
        linear.BY_HAND = before

    return {"alone": alone, "through MKL": through_mkl, "together": together}


def measured(size: str, number: int, rounds: int, time: Clock) -> list[Cell]:
    took = race(steps(size, number), rounds, {"0.01M": 8, "0.05M": 5, "0.2M": 2, "1M": 1}[size], time)
    ms = {name: [1000 * second for second in seconds] for name, seconds in took.items()}
    gains = [ratios(took[name], took["together"]) for name in ("alone", "through MKL")]
    return [size, number, *ms.values(), *gains]


def steps_on_gpu(size: str, number: int) -> dict[str, Callable[[], None]]:
    """A step of one run, and one of a stack, in each way."""
    found = {}
    for way, (compiled, captured) in WAYS.items():
        more = [f"trainer.compile={compiled}", f"trainer.capture={captured}"]
        lone = seats(size, 1, "gpu", more)[0]
        stacked = seats(size, number, "gpu", [more[1]])
        stack = Ensemble(stacked, compiled)
        stack.prove()
        print(way, "proved", flush=True)

        def alone(task: ManualTask = lone) -> None:
            task.training_step(task.steps.done, 0)

        def together(stack: Ensemble = stack, first: ManualTask = stacked[0]) -> None:
            stack.step(first.steps.done)

        found |= {f"one, {way}": alone, f"stack, {way}": together}
    return {name: synchronised(call) for name, call in found.items()}


def synchronised(call: Callable[[], None], times: int = 10) -> Callable[[], None]:
    """So many calls, and the wait for the device."""

    def calls() -> None:
        for _ in range(times):
            call()
        torch.cuda.synchronize()

    return calls


def measured_on_gpu(size: str, number: int, rounds: int, time: Clock, profile: bool) -> list[Cell]:
    calls, best = steps_on_gpu(size, number), list(WAYS)[-1]
    took = race(calls, rounds, 2, time)
    ms = [[1000 * second / 10 for second in seconds] for seconds in took.values()]
    if profile:
        for what in ("one", "stack"):
            print(what, kernels_of(calls[f"{what}, {best}"]), flush=True)
    return [size, number, *ms, ratios(took[f"stack, {best}"], took[f"one, {best}"])]


def gpu_columns() -> list[str]:
    ways = [f"{what}, {way}, ms" for way in WAYS for what in ("one", "stack")]
    return ["model", "runs", *ways, "stack / one"]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--numbers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--profile", action="store_true", help="print the kernels (on a GPU)")
    given = parser.parse_args()
    gpu = given.device == "gpu"
    if gpu and not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    time = clock(os.cpu_count() or 1) if gpu else clock(given.threads)
    rows = []
    for size in given.sizes:
        for number in given.numbers:
            told = (size, number, given.rounds, time)
            rows.append(measured_on_gpu(*told, given.profile) if gpu else measured(*told))
            print(rows[-1], flush=True)
    columns = ["model", "runs", "one after the other, ms", "the same through MKL, ms", "as a stack, ms"]
    columns += ["alone / stack", "through MKL / stack"]
    title = f"One step of each of N runs, on a {given.device.upper()}"
    table = Table(title, gpu_columns() if gpu else columns, rows, GPU_NOTE if gpu else NOTE)
    name = "replicas_gpu" if gpu else "replicas"
    save(name, [table], clock=time.name)


if __name__ == "__main__":
    main()
