"""Runs of one architecture trained as one (`train.speed.ensemble`), each with the record that it leaves.

What the runs may differ in: seeds, optimizer, schedule, clipping, looks at validation. A run that diverges
leaves the stack; the others go on. A stack keeps no checkpoints: what it was stopped in begins again.
Whatever else goes wrong is no outcome of a run, which is then trained alone.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from ablate.data.prepare import prepare
from ablate.parts.base import IncompatibleParts
from ablate.record import Status
from ablate.spec import RunSpec, digest
from ablate.train import fit
from ablate.train.callback import Diverged
from ablate.train.kept_config import keep_config
from ablate.train.monitor.interrupt import Interrupt
from ablate.train.monitor.progress import Quiet
from ablate.train.request import RunRequest
from ablate.train.settings import Settings, accelerator, devices, threads
from ablate.train.speed.allocator import keep_pages
from ablate.train.speed.ensemble import Ensemble, seat
from ablate.train.trainer import quiet_lightning, trainer

log = logging.getLogger("ablate.train")

ALIKE = ("model", "data", "budget", "precision")  # the fields of a specification that a stack shares


def ensemble_work(payloads: list[dict[str, Any]], ended: Callable[[str], None]) -> None:
    """What a worker process does with the jobs of several runs (see `ablate.train.fit.train_work`).

    `ended` is called with the id of each whose record is saved. Those that cannot be one ensemble, or whose
    ensemble failed, are trained one after the other."""
    requests = [RunRequest.read(payload) for payload in payloads]
    runs = [opened(request) for request in requests]
    todo = {run.id: request for run, request in zip(runs, requests, strict=True)}

    def done(id: str) -> None:
        del todo[id]
        ended(id)

    try:
        train_together(runs, done)
    except Exception:
        log.warning("the runs %s are trained one after the other:", ", ".join(todo), exc_info=True)
    for id, request in list(todo.items()):
        try:
            fit.perform_quietly(request)
        except Exception:  # its record says so
            log.warning("the run %s crashed:", id, exc_info=True)
        done(id)


def opened(request: RunRequest) -> fit.Run:
    """The requested run, to be trained quietly."""
    return fit.Run(request.with_settings(progress=False), prepare(request.spec.data, request.cache))


def ensemble_refusal(spec: RunSpec, settings: Settings) -> str | None:
    """Why a run is to be trained alone, as far as its specification says; None if nothing does."""
    if spec.model.dropout:
        return "dropout would be drawn otherwise than alone; model.dropout must be 0"
    if spec.precision != "fp32":
        return "in bf16 the order of additions shows; precision must be fp32"
    if spec.parent is not None:
        return "it starts from the weights of another run"
    if devices(settings) * settings.nodes > 1:
        return "it takes several devices"
    if settings.activation_checkpointing:
        return "recompute is for lone runs"
    if settings.compile and accelerator(settings) == "cpu":
        return "on a CPU compile is for lone runs"
    if settings.keep == "all":
        return "a stack keeps no checkpoints; keep must be weights or none"
    if settings.logger.name == "wandb":
        return "W&B follows one run a process"
    return None


def family(spec: RunSpec) -> str:
    """The same for runs that can be stacked."""
    node = spec.model_dump(mode="json")
    return digest({field: node[field] for field in ALIKE})


class Replica:
    """One run of a stack."""

    def __init__(self, run: fit.Run, lightning: Trainer):
        self.run, self.lightning = run, lightning
        _ = run.origin
        run.folder.mkdir(parents=True, exist_ok=True)
        keep_config(run.request, run.folder)
        self.task = seat(run, lightning)
        self.watch = run.watch(Interrupt(), Quiet())  # signals end the stack, not a run
        never = {"checkpoint_steps": None, "checkpoint_minutes": None}
        self.watch.settings = run.settings.model_copy(update=never)

    def begin(self) -> None:
        self.run.open(self.watch)
        self.watch.on_train_start(self.lightning, self.task)

    def made(self, step: int) -> tuple[Status, str] | None:
        """What happens at the edge of a step, the last look after the last; how the run ended, if it did."""
        try:
            self.watch.on_train_batch_end(self.lightning, self.task, None, step, step)
        except Diverged as error:
            return "diverged", str(error)
        return (self.watch.ended(), "") if step == self.run.spec.steps else None

    def paused(self, seconds: float) -> None:
        """What the others do at the edge of a step is no time of training."""
        self.watch.row_at += seconds

    def end(self, status: Status, reason: str, size: int) -> None:
        """Leave the record. Its speed is the run's share of a stack of `size`; what of the memory was its
        own is not known."""
        found: dict[str, Any] = {}
        if status == "finished":
            self.run.keep(self.watch)
            rate = self.watch.speed.median()
            found["metrics"] = self.watch.outcome.metrics
            found["kernel"] = self.watch.outcome.kernel
            found["weights_hash"] = self.watch.outcome.weights_hash
            found["curve_hash"] = self.watch.outcome.curve_hash
            found["speed"] = {"seconds": self.watch.seconds / size}
            found["speed"] |= {} if rate is None else {"tokens_per_second": rate * size}
        self.run.close(self.watch, status)
        record = self.run.record(status, reason, **found)
        origin = {**record.provenance, "replicas": size}
        self.run.save(record.model_copy(update={"provenance": origin}))


def train_together(runs: Sequence[fit.Run], ended: Callable[[str], None] = lambda id: None) -> None:
    """Train the runs as one and save their records; `ended` hears the id of each when its own is there.

    Raises IncompatibleParts, before anything is written, where they cannot be stacked.
    """
    settings, steps, size = runs[0].settings, runs[0].spec.steps, len(runs)
    if len({family(run.spec) for run in runs}) > 1:
        raise IncompatibleParts(
            f"stacked runs differ in more than seeds and rates: {', '.join(ALIKE)} must be the same"
        )
    for run in runs:
        if (reason := ensemble_refusal(run.spec, run.settings)) is not None:
            raise IncompatibleParts(f"{run.id} cannot be stacked: {reason}")
        if run.checkpoints.newest() is not None:
            raise IncompatibleParts(f"{run.id} cannot be stacked: it goes on from a checkpoint")
    with quiet_lightning(), threads(settings.threads):
        lightning = trainer(runs[0].spec, settings, [])
        if lightning.strategy.root_device.type == "cpu":
            keep_pages()
        living = [Replica(run, lightning) for run in runs]
        stack = Ensemble([replica.task for replica in living], settings.compile)
        stack.prove()
        try:
            for replica in living:
                replica.begin()
            for step in range(steps + 1):  # the last is the look at the whole of validation, and the weights
                if step < steps:
                    stack.step(step)
                for replica in list(living):
                    begin = time.perf_counter()
                    if (outcome := replica.made(step)) is not None:
                        living.remove(replica)
                        replica.end(*outcome, size)
                        ended(replica.run.id)
                    for other in living:
                        if other is not replica:
                            other.paused(time.perf_counter() - begin)
                if not living:
                    break
                if len(living) < len(stack.tasks):
                    stack = Ensemble([replica.task for replica in living], settings.compile)
        finally:
            for replica in living:
                replica.run.close(replica.watch, "interrupted")
