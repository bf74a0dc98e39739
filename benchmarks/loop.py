"""What the training loop adds to a bare loop of the same steps: data, Lightning, logging and the bar.

    python benchmarks/loop.py [--size tiny] [--steps 60] [--rounds 5] [--threads 1]

Interleaved: a round is a bare loop (the same decoder, batches, clipping and optimizer, nothing else), then
`fit` with its curve and progress on, timed from its first step to its last. CPU time with one thread.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ablate.command import planned
from ablate.compose import Job
from ablate.data.stream import Stream
from ablate.model.decoder import Decoder
from ablate.parts.base import Call
from ablate.registry import optimizer
from ablate.study_command import Composer
from ablate.train.fit import fit
from ablate.train.progress import Progress
from ablate.train.schedule import factor


def bare(todo: Job, clock) -> float:
    """Seconds a step of a loop without anything around it."""
    spec = todo.spec
    decoder = Decoder(spec.model).start(0).train()
    stream = Stream(todo.prepared.splits["train"], spec.model.context, spec.data.documents, 0)
    (chosen,) = optimizer.build(spec.optim, list(decoder.named_parameters()))
    begin = 0.0
    for step in range(spec.steps):
        if step == 2:
            begin = clock()
        batch = stream.batch(step, spec.rows)
        found = decoder(batch.tokens, Call(batch.at), targets=batch.targets)
        found.nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), spec.clip or 1e9)
        for group in chosen.param_groups:
            group["lr"] = spec.optim.lr * factor(spec.schedule, step, spec.steps)
        chosen.step()
        chosen.zero_grad(set_to_none=True)
    return (clock() - begin) / (spec.steps - 2)


def whole(todo: Job, clock, runs: Path) -> float:
    """Seconds a step inside `fit`."""
    seen: list[tuple[int, float]] = []

    def hear(progress: Progress) -> None:
        seen.append((progress.step, clock()))

    fit(todo.spec, todo.prepared, todo.settings, runs, on_progress=hear, rerun=True)
    (first, begin), (last, end) = next(s for s in seen if s[0] >= 2), seen[-1]
    return (end - begin) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="tiny", help="a choice of model/size: 0.2M, tiny (0.8M), 8M, ...")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    tokens = given.steps * 2048
    overrides = [f"model/size={given.size}", "budget.batch_tokens=2048", f"budget.tokens={tokens}"]
    overrides += [
        f"trainer.threads={given.threads}",
        "evaluation.every=0",
        "keep=none",
        "trainer.progress=true",
    ]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        todo = Composer("cache").job(overrides)
        planned(todo)
        for _ in range(given.rounds):
            alone, inside = bare(todo, clock), whole(todo, clock, Path(folder))
            ratios.append(inside / alone)
            print(f"bare {1e3 * alone:.2f} ms a step, fit {1e3 * inside:.2f} ms: {ratios[-1]:.3f}")
    print(
        f"{given.size}: fit / bare = {statistics.median(ratios):.3f}  [{min(ratios):.3f}..{max(ratios):.3f}]"
    )


if __name__ == "__main__":
    main()
