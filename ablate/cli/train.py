"""What `python train.py` does with a composed configuration."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from ablate.cli.compose import Job, Mistaken, job
from ablate.cli.estimate import Plan, plan
from ablate.cli.show import show_plan, show_record
from ablate.cli.terminal import forgive
from ablate.data.source import BadText, NoNetwork
from ablate.data.tokenizer import BadTokenizer
from ablate.engine import worker
from ablate.engine.store import MISSING, Store
from ablate.parts.base import Refused
from ablate.record import RunRecord
from ablate.train import ranks
from ablate.train.settings import torch_device
from ablate.train.state.source_hash import code

WRONG, FAILED, INTERRUPTED = 2, 1, 130  # exit codes


class RunFailed(Exception):
    """One run of several (`-m`) failed; Hydra goes on with the rest and says so at the end."""


def train(config: DictConfig) -> None:
    """Plan, fit, and show the outcome. Exits with 2 where the configuration is wrong, 1 where the run
    failed, 130 where it was interrupted, which ends a multirun too; else that raises RunFailed."""
    console = Console(highlight=False, quiet=not ranks.main())
    with writing(), stopping(), refusals():
        todo = job(config)
        made = planned(todo)
        folder, known = todo.runs / todo.id, Store(todo.runs).find(todo.id)
        if known is not None and known.code != code(todo.spec):
            console.print(f"{folder} is stale: {known.status}, but by other sources than these.")
            known = None
        if todo.rest["plan"]:
            show_plan(console, made, todo.id, known.status if known else "not run")
        elif known is not None and known.status not in MISSING and not todo.rest["rerun"]:
            console.print(f"{folder} is {known.status}; rerun=true repeats it.\n")
            show_record(console, known)
            if known.status != "finished":
                fail(f"{known.status}: {known.reason}", FAILED)
        else:
            run(todo, made, console)


def run(todo: Job, made: Plan, console: Console) -> None:
    """Train under a lease, so that nobody else does the same run at the same time. Of several processes that
    torchrun started, the first has it."""
    if not ranks.main():
        if trained(todo, made, None).status not in ("finished", "diverged", "interrupted"):
            raise SystemExit(FAILED)  # or the others would wait
        return
    folder, store = todo.runs / todo.id, Store(todo.runs)
    rerun = bool(todo.rest["rerun"])
    lease = worker.Job(
        todo.id,
        {},
        code="" if rerun else code(todo.spec),
        spec=todo.spec.model_dump(mode="json"),
        fingerprint=todo.prepared.fingerprint,
    )

    def leased(payload: dict[str, Any]) -> None:
        trained(todo, made, Path(payload["outbox"]))

    report = worker.perform(store, lease, leased)
    if report.status in ("elsewhere", "lost"):
        fail(f"{folder}: another process is at this run", FAILED)
    record = store.load(todo.id)
    if record.status != report.status:
        console.print("The outcome from before stands:")
    show_record(console, record)
    if report.status != "finished":
        fail(f"{report.status}: {report.reason}", INTERRUPTED if report.status == "interrupted" else FAILED)
    show_sample(console, folder, todo.rest["sample"])
    console.print(f"\n{folder}")


def trained(todo: Job, made: Plan, outbox: Path | None) -> RunRecord:
    from ablate.train.fit import fit

    return fit(
        todo.spec,
        todo.prepared,
        todo.settings,
        todo.runs,
        start=todo.start,
        counts=asdict(made.costs),
        parts=todo.rest["parts"],
        rerun=bool(todo.rest["rerun"]),
        outbox=outbox,
    )


def planned(todo: Job) -> Plan:
    return plan(todo.spec, device=torch_device(todo.settings), micro_rows=todo.settings.micro_rows)


def prepare(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """For `hydra/launcher=slots`: what is known of a run before it is done. Raises ValueError."""
    try:
        todo = job(config)
        planned(todo)
    except (Mistaken, BadText, BadTokenizer, NoNetwork) as error:
        raise ValueError(str(error)) from error
    if todo.rest["plan"]:
        raise ValueError("plan=true trains nothing; it is printed without hydra/launcher=slots")
    devices = todo.settings.devices
    return {
        "id": todo.id,
        "devices": 1 if devices == "auto" else devices,  # auto: what the slot has
        "code": "" if todo.rest["rerun"] else code(todo.spec),
        "spec": todo.spec.model_dump(mode="json"),
        "fingerprint": todo.prepared.fingerprint,
    }


def work(payload: dict[str, Any]) -> None:
    """For `hydra/launcher=slots`: one run of a multirun, quietly, in a worker."""
    todo = job(payload["config"])
    todo = replace(todo, settings=todo.settings.model_copy(update={"progress": False}))
    trained(todo, planned(todo), Path(payload["outbox"]))


def show_sample(console: Console, folder: Path, sample: dict[str, Any]) -> None:
    """A few tokens from the trained model."""
    from rich.panel import Panel
    from rich.text import Text

    from ablate.measure.trained import open_run, sample_text

    if not sample["tokens"] or not (folder / "weights").is_dir():
        return
    try:
        text = sample_text(open_run(folder), **sample)
    except (ValueError, BadTokenizer) as error:  # a prompt that the tokenizer cannot say, for example
        console.print(Text(f"no sample: {error}", style="dim"))
        return
    console.print(Panel(Text(text), title="A sample", title_align="left"))


@contextmanager
def refusals() -> Iterator[None]:
    """Every mistake on a line of its own, and no traceback: it is the configuration that is wrong."""
    try:
        yield
    except Mistaken as error:
        fail("\n".join(error.mistakes), WRONG)
    except (Refused, BadText, BadTokenizer, NoNetwork) as error:
        fail(str(error), WRONG)


@contextmanager
def stopping() -> Iterator[None]:
    """Ctrl-C outside of a training, which records it, is a line."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped; run this again to go on", INTERRUPTED)


@contextmanager
def writing() -> Iterator[None]:
    """A folder that cannot be written is no fault of the program, nor is what a terminal cannot show."""
    forgive()
    try:
        yield
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror}" if error.strerror else str(error), FAILED)


def fail(reason: str, code: int) -> NoReturn:
    if code != INTERRUPTED and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise RunFailed(reason)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(reason, file=sys.stderr)
    raise SystemExit(code)
