"""What the training loop adds to a bare loop of the same steps: data, Lightning, logging and the bar.

    python benchmarks/loop.py [--sizes 0.2M tiny 8M] [--rounds 5] [--threads 1]

Interleaved: a round is a bare loop (the same decoder, batches, clipping and optimizer, nothing else) and
`fit` with its curve and progress on, timed from its third step to its last.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from clock import arguments, clock, ratios
from record import Cell, Table, save

from ablate.cli.compose import Job
from ablate.cli.composer import Composer
from ablate.cli.train import planned
from ablate.data.stream import Stream
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import optimizer
from ablate.train.fit import fit
from ablate.train.monitor.progress import Progress
from ablate.train.schedule import factor
from ablate.train.speed.allocator import keep_pages

STEPS = {"0.2M": 60, "tiny": 40, "8M": 8}
WARM = 2  # steps that do not count
NOTE = "Targets: at most 1.10 at 0.2M, at most 1.03 at tiny (0.8M)."

Now = Callable[[], float]


def bare(todo: Job, now: Now) -> float:
    """Seconds a step of a loop without anything around it."""
    spec = todo.spec
    decoder = Decoder(spec.model).init_parameters(0).train()
    stream = Stream(todo.prepared.splits["train"], spec.model.context, spec.data.documents, 0)
    (chosen,) = optimizer.build(spec.optim, list(decoder.named_parameters()))
    begin = 0.0
    for step in range(spec.steps):
        if step == WARM:
            begin = now()
        batch = stream.batch(step, spec.rows)
        found = decoder(batch.tokens, ForwardContext(batch.positions), targets=batch.targets, summed=True)
        (found.objective / batch.targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), spec.clip or 1e9)
        for group in chosen.param_groups:
            group["lr"] = spec.optim.lr * factor(spec.schedule, step, spec.steps)
        chosen.step()
        chosen.zero_grad(set_to_none=True)
    return (now() - begin) / (spec.steps - WARM)


def whole(todo: Job, now: Now, runs: Path) -> float:
    """Seconds a step inside `fit`."""
    seen: list[tuple[int, float]] = []

    def hear(progress: Progress) -> None:
        seen.append((progress.step, now()))

    fit(todo.spec, todo.prepared, todo.settings, runs, on_progress=hear, rerun=True)
    (first, begin), (last, end) = next(s for s in seen if s[0] >= WARM), seen[-1]
    return (end - begin) / (last - first)


def measured(size: str, rounds: int, threads: int) -> list[Cell]:
    now = clock(threads).now
    overrides = [
        f"model/size={size}",
        "data/tokenizer=bytes",
        "budget.batch_tokens=2048",
        f"budget.tokens={2048 * STEPS[size]}",
    ]
    overrides += [f"trainer.threads={threads}", "evaluation.every=0", "keep=none", "trainer.progress=true"]
    keep_pages()  # as `fit` does, from then on
    alone, inside = [], []
    with tempfile.TemporaryDirectory() as folder:
        todo = Composer("cache").job(overrides)
        parameters = planned(todo).costs.non_embedding
        for n in range(rounds):
            if n % 2:
                inside.append(whole(todo, now, Path(folder)))
                alone.append(bare(todo, now))
            else:
                alone.append(bare(todo, now))
                inside.append(whole(todo, now, Path(folder)))
    per_step = [[1e3 * seconds for seconds in took] for took in (alone, inside)]
    return [size, parameters, *per_step, ratios(inside, alone)]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", default=list(STEPS), choices=list(STEPS))
    given = parser.parse_args()
    rows = [measured(size, given.rounds, given.threads) for size in given.sizes]
    columns = ["model", "parameters", "bare, ms a step", "fit, ms a step", "fit / bare"]
    table = Table("The loop against a bare loop of the same steps", columns, rows, NOTE)
    save("loop", [table], clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
