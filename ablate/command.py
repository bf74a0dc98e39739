"""What `python train.py` does with a composed configuration."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from ablate.compose import Job, Mistaken, job
from ablate.data.source import BadText, NoNetwork
from ablate.data.tokenizer import BadTokenizer
from ablate.parts.base import Refused
from ablate.record import RunRecord

WRONG, FAILED, INTERRUPTED = 2, 1, 130  # exit codes


class RunFailed(Exception):
    """One run of several (`-m`) failed; Hydra goes on with the rest and says so at the end."""


def train(config: DictConfig) -> None:
    """Plan, fit, and show the outcome. Exits with 2 where the configuration is wrong, 1 where the run
    failed, 130 where it was interrupted; in a multirun, raises RunFailed instead."""
    console = Console(highlight=False)
    with refusals(config):
        todo = job(config)
        show_or_run(todo, console)


def show_or_run(todo: Job, console: Console) -> None:
    from ablate.plan import plan
    from ablate.show import show_plan, show_record
    from ablate.train.code import code
    from ablate.train.fit import fit
    from ablate.train.trainer import accelerator

    device = "cuda" if accelerator(todo.settings) == "gpu" else "cpu"
    made = plan(todo.spec, device=device, micro_rows=todo.settings.micro_rows)
    folder = todo.runs / todo.id
    finished = RunRecord.finished(folder, code(todo.spec))
    if todo.rest["plan"]:
        show_plan(console, made, todo.id, "finished" if finished else "not run")
        return
    if finished and not todo.rest["rerun"]:
        console.print(f"{folder} is finished; rerun=true repeats it.\n")
        show_record(console, finished)
        return
    record = fit(
        todo.spec,
        todo.prepared,
        todo.settings,
        todo.runs,
        start=todo.start,
        counts=asdict(made.costs),
        parts=todo.rest["parts"],
        rerun=todo.rest["rerun"],
    )
    show_record(console, record)
    if record.status != "finished":
        fail(f"{record.status}: {record.reason}", INTERRUPTED if record.status == "interrupted" else FAILED)
    show_sample(console, folder, todo.rest["sample"])
    console.print(f"\n{folder}")


def show_sample(console: Console, folder: Path, sample: dict[str, Any]) -> None:
    """A few tokens from the trained model."""
    from rich.panel import Panel
    from rich.text import Text

    from ablate.model.generate import open_run, sample_text

    if not sample["tokens"] or not (folder / "weights").is_dir():
        return
    text = sample_text(open_run(folder), **sample)
    console.print(Panel(Text(text), title="A sample", title_align="left"))


@contextmanager
def refusals(config: DictConfig) -> Iterator[None]:
    """Every mistake on a line of its own, and no traceback: it is the configuration that is wrong."""
    try:
        yield
    except Mistaken as error:
        fail("\n".join(error.mistakes), WRONG)
    except (Refused, BadText, BadTokenizer, NoNetwork) as error:
        fail(str(error), WRONG)


def fail(reason: str, code: int) -> NoReturn:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise RunFailed(reason)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(reason, file=sys.stderr)
    raise SystemExit(code)
