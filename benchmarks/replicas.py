"""Several runs of one small model: as a stack, against the same runs one after the other.

    python benchmarks/replicas.py [--sizes 0.01M] [--numbers 2 4 8] [--rounds 5] [--threads 1] [--device cpu]

A rival makes one optimizer step of each of N runs (batches, forward, backward, clipping, AdamW); all take
turns in one process. What a study does without stacks is one run after the other in each of its slots, so
the ratio is what a slot gains. Alone, products go through oneDNN where MKL is slow (`ablate.parts.linear`),
and in a stack through MKL everywhere: the second ratio is what stacking gains.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from clock import Clock, arguments, clock, race, ratios
from record import Cell, Table, save

from ablate.parts import linear
from ablate.study_command import Composer
from ablate.train.fit import Run
from ablate.train.stack import Seat, Stack
from ablate.train.trainer import hushed, trainer

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


def seats(size: str, number: int, device: str) -> list[Seat]:
    """Tasks of one architecture, each with its seed and rate, at their beginning."""
    overrides = ["data/tokenizer=bytes", "budget.tokens=10000000", f"trainer.accelerator={device}"]
    overrides += [*SIZES[size], f"budget.batch_tokens={TOKENS[size]}"]
    compose = Composer("cache")
    found = []
    with hushed():
        for n in range(number):
            todo = compose.job([*overrides, f"seed={n}", f"optim.lr={1e-3 * (1 + n / 4)}"])
            run = Run(todo.spec, todo.prepared, todo.settings, Path("runs"), None, {}, None, None)
            found.append(
                Seat(run.spec, run.stream(), run.settings).take_seat(trainer(run.spec, run.settings, []))
            )
    return found


def steps(size: str, number: int, device: str) -> dict[str, Callable[[], None]]:
    lone, stacked = seats(size, number, device), seats(size, number, device)
    stack = Stack(stacked)
    stack.prove()

    def alone() -> None:
        for task in lone:
            task.training_step(task.steps.done, 0)
        wait()

    def together() -> None:
        stack.step(stacked[0].steps.done)
        wait()

    def wait() -> None:
        if device == "gpu":
            torch.cuda.synchronize()

    def through_mkl() -> None:
        linear.BY_HAND, before = False, linear.BY_HAND
        alone()
        linear.BY_HAND = before

    return {"alone": alone, "through MKL": through_mkl, "together": together}


def measured(size: str, number: int, rounds: int, device: str, time: Clock) -> list[Cell]:
    took = race(steps(size, number, device), rounds, {"0.01M": 8, "0.05M": 5, "0.2M": 2, "1M": 1}[size], time)
    ms = {name: [1000 * second for second in seconds] for name, seconds in took.items()}
    gains = [ratios(took[name], took["together"]) for name in ("alone", "through MKL")]
    return [size, number, *ms.values(), *gains]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--numbers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    given = parser.parse_args()
    time = clock(given.threads)
    rows = []
    for size in given.sizes:
        for number in given.numbers:
            rows.append(measured(size, number, given.rounds, given.device, time))
            print(rows[-1], flush=True)
    columns = ["model", "runs", "one after the other, ms", "the same through MKL, ms", "as a stack, ms"]
    columns += ["alone / stack", "through MKL / stack"]
    title = f"One step of each of N runs, on a {given.device.upper()}"
    name = "replicas" if given.device == "cpu" else "replicas_gpu"
    command = " ".join(["python", *sys.argv])
    save(name, command, [Table(title, columns, rows, NOTE)], clock=time.name)


if __name__ == "__main__":
    main()
