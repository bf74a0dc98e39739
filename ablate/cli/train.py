"""What `python train.py` does with a composed configuration."""

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from ablate.cli.compose import OBJECTIVE, ConfigError, Sample, TrainJob, job
from ablate.cli.estimate import estimate_run
from ablate.cli.exits import EXIT_FAILED, INTERRUPTED, WRONG, fail, stopping, writing
from ablate.cli.show import show_plan, show_record
from ablate.cli.terminal import PlainConsole
from ablate.data.source import DataError, NetworkError
from ablate.data.tokenizer import TokenizerError
from ablate.engine import worker
from ablate.engine.store import MISSING, Store
from ablate.parts.base import IncompatibleParts
from ablate.record import RunRecord
from ablate.train import ranks
from ablate.train.fit import perform_request
from ablate.train.settings import torch_device
from ablate.train.state.source_hash import source_hash

BASIC_SWEEPER = "basic_sweeper.BasicSweeper"  # the end of its name: Hydra's own, which reads no values


def train(config: DictConfig) -> float | None:
    """Plan, train, and show the outcome. Returns the objective of the run for a sweeper of Hydra that
    searches; None with `plan=true`.

    Exits with 2 where the configuration is wrong, 1 where the run failed, 130 where it was interrupted,
    which ends a multirun too. In a multirun a failure raises RunFailed instead.
    """
    console = PlainConsole(highlight=False, quiet=not ranks.is_main_rank())
    with writing(), stopping(), refusals():
        todo = job(config)
        design = todo.design  # Raises IncompatibleParts before anything is written
        folder, store = todo.runs / todo.id, Store(todo.runs)
        record = store.find(todo.id)
        if record is not None and record.status not in MISSING:
            record = store.outcome(todo.id, record.source_hash)
        if record is not None and record.source_hash != source_hash(todo.spec):
            console.print(
                f"{folder} is out of date: it is {record.status}, with an earlier version of the code."
            )
            record = None
        if todo.rest.plan:
            estimate = estimate_run(
                todo.spec, design.costs, torch_device(todo.settings), todo.settings.micro_batch_size
            )
            show_plan(console, todo, estimate, record.status if record else "not run")
            return None
        if record is not None and record.status not in MISSING and not todo.rest.rerun:
            console.print(f"{folder} is {record.status}; rerun=true repeats it.\n")
            show_record(console, record)
        elif ranks.is_main_rank():
            record = run(todo, console)
        else:
            record = run_beside(todo)
        if record.status == "diverged" and searching():
            return math.inf
        if record.status != "finished" and ranks.is_main_rank():
            reason = f"{record.status}: {record.reason}"
            fail(reason, INTERRUPTED if record.status == "interrupted" else EXIT_FAILED)
        return objective(record, todo.rest.objective)


def run(todo: TrainJob, console: Console) -> RunRecord:
    """Train under a lease, so that nobody else does the same run at the same time, and show the outcome."""
    folder, store = todo.runs / todo.id, Store(todo.runs)
    leased = worker.Job(
        todo.id,
        {},
        source_hash="" if todo.rest.rerun else source_hash(todo.spec),
        spec=todo.spec.model_dump(mode="json"),
        fingerprint=todo.prepared.fingerprint,
    )
    reports: list[worker.WorkerReport] = []
    with worker.hold_lease(store, [leased], reports.append, lost=stop_training) as (payloads, _):
        for payload in payloads:
            perform_request(todo.request(Path(payload["outbox"])), todo.prepared)
    (report,) = reports
    if report.status in ("elsewhere", "lost"):
        fail(f"{folder} is being trained by another process.", EXIT_FAILED)
    record = store.load(todo.id)
    if record.status != report.status:
        console.print("The outcome from before stands:")
    show_record(console, record)
    if report.status != "finished":
        return record.model_copy(update={"status": report.status, "reason": report.reason})
    show_sample(console, folder, todo.rest.sample)
    console.print(f"\n{folder}")
    return record


def stop_training() -> None:
    """Ask the training in this process to stop; where none listens, what it would write is refused."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)


def run_beside(todo: TrainJob) -> RunRecord:
    """Train in a process that torchrun started beside the first, which holds the lease. Exits with 1 where
    the others would wait in vain."""
    record = perform_request(todo.request(), todo.prepared)
    if record.status not in ("finished", "diverged", "interrupted"):
        raise SystemExit(EXIT_FAILED)
    return record


def searching() -> bool:
    """Whether a sweeper of Hydra reads what the run returns: any but its basic one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return not str(HydraConfig.get().sweeper["_target_"]).endswith(BASIC_SWEEPER)


def objective(record: RunRecord, name: str) -> float:
    """The value that a search minimises: the named validation metric, infinite for a run without it."""
    value = record.metrics.get(name)
    return math.inf if value is None else value


def slot_job(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Describe a run to `hydra/launcher=slots` before it is done. Raises ValueError."""
    try:
        todo = job(config)
        _ = todo.design
    except (ConfigError, DataError, TokenizerError, NetworkError) as error:
        raise ValueError(str(error)) from error
    if todo.rest.plan:
        raise ValueError("plan=true trains nothing; it is printed without hydra/launcher=slots")
    devices = todo.settings.devices
    return {
        "id": todo.id,
        "devices": 1 if devices == "auto" else devices,  # auto: what the slot has
        "source_hash": "" if todo.rest.rerun else source_hash(todo.spec),
        "spec": todo.spec.model_dump(mode="json"),
        "fingerprint": todo.prepared.fingerprint,
    }


def train_in_slot(payload: dict[str, Any]) -> None:
    """Train one run of a multirun quietly, in a worker of `hydra/launcher=slots`."""
    todo = job(payload["config"])
    perform_request(todo.request(Path(payload["outbox"])).with_settings(progress=False), todo.prepared)


def slot_objective(config: Mapping[str, Any], record: RunRecord) -> float:
    """The value of a run of `hydra/launcher=slots` for a sweeper that searches."""
    return objective(record, config.get("objective", OBJECTIVE))


def show_sample(console: Console, folder: Path, sample: Sample) -> None:
    """Print a few tokens from the trained model, if its weights were kept."""
    from rich.panel import Panel
    from rich.text import Text

    from ablate.measure.trained import open_run, sample_text

    if not sample.tokens or not (folder / "weights").is_dir():
        return
    try:
        text = sample_text(open_run(folder), **sample.model_dump())
    except (ValueError, TokenizerError) as error:  # a prompt that the tokenizer cannot say, for example
        console.print(Text(f"no sample: {error}", style="dim"))
        return
    console.print(Panel(Text(text), title="A sample", title_align="left"))


@contextmanager
def refusals() -> Iterator[None]:
    """Print every mistake of the configuration on a line of its own, and exit with 2."""
    try:
        yield
    except ConfigError as error:
        fail("\n".join(error.mistakes), WRONG)
    except (IncompatibleParts, DataError, TokenizerError, NetworkError) as error:
        fail(str(error), WRONG)
