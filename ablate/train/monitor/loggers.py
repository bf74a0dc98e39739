"""Copies of the curve for other tools. A mirror that breaks is let go with a warning: the run goes on, and
its record is whole."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ablate.spec import RunSpec
from ablate.train.settings import LoggerSpec

log = logging.getLogger("ablate.train")

CONNECT = 20.0  # seconds that W&B has to answer before a run begins
FLUSH = 30.0  # seconds that the rest of the curve has to arrive when it has ended


class Mirror:
    """Rows have the names of the curve's columns, and `flops`: those of training so far, where it is known
    how many a token takes."""

    def __init__(self, spec: LoggerSpec, id: str, folder: Path, run: RunSpec, flops: float | None):
        self.name = spec.name
        self.logger: Logger | None = None
        self.batch_tokens = run.budget.batch_tokens
        self.flops = flops  # for each token
        self.guard(lambda: self.open(spec, id, folder, run))

    def open(self, spec: LoggerSpec, id: str, folder: Path, run: RunSpec) -> None:
        self.logger = make(spec, id, folder)
        if self.logger is not None:
            self.logger.log_hyperparams({**run.model_dump(mode="json"), **spec.config})

    def add(self, row: Mapping[str, Any]) -> None:
        """Every row says its tokens and FLOPs: W&B plots one column against another only where a row has
        both."""
        if self.logger is not None:
            logger, step = self.logger, int(row["step"])
            tokens = step * self.batch_tokens
            metrics = {name: float(x) for name, x in row.items() if x is not None}
            metrics["tokens"] = float(tokens)
            if self.flops is not None:
                metrics["flops"] = tokens * self.flops
            at = None if isinstance(logger, WandbLogger) else step  # it would add a column of its own
            self.guard(lambda: logger.log_metrics(metrics, step=at))

    def go_on(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """From these rows of a run that is resumed. Lightning has deleted the CSV file that had them."""
        if self.name == "csv":
            for row in rows:
                self.add(row)

    def close(self, status: str, metrics: Mapping[str, float | None]) -> None:
        if self.logger is not None:
            self.guard(lambda: self.finish(status, metrics))

    def finish(self, status: str, metrics: Mapping[str, float | None]) -> None:
        logger = self.logger
        assert logger is not None
        if isinstance(logger, WandbLogger):
            found = {name: value for name, value in metrics.items() if value is not None}
            logger.experiment.summary.update(
                {"status": status, "diverged": float(status == "diverged"), **found}
            )
        logger.save()
        logger.finalize("success" if status == "finished" else "failed")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status == "finished" else 1)

    def guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # none of a mirror's faults may cost a run
            log.warning("logger %s: %s: %s; going on without it", self.name, type(error).__name__, error)
            self.logger = None


def make(spec: LoggerSpec, id: str, folder: Path) -> Logger | None:
    match spec.name:
        case "csv":
            return CSVLogger(folder, name="csv", version="")
        case "tensorboard":
            return TensorBoardLogger(folder, name="tensorboard", version="")
        case "wandb" if os.environ.get("WANDB_MODE") == "disabled":
            return None
        case "wandb":
            return WandbLogger(experiment=wandb_run(spec, id, folder))
        case _:
            return None


def wandb_run(spec: LoggerSpec, id: str, folder: Path) -> Any:
    """A W&B run. Where the server does not answer, one that is kept on disk for `wandb sync`."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    if offline(spec):
        return begin(spec, id, folder, "offline")
    try:
        return begin(spec, id, folder, "online")
    except (wandb.Error, OSError, TimeoutError) as error:
        log.warning("logger wandb: %s; the run is mirrored on disk instead, see `wandb sync`", error)
        Unreachable.noticed = True
        wandb.teardown()  # or the id would still be in use
        return begin(spec, id, folder, "offline")


class Unreachable:
    """What this process knows of the server, so that of many runs in one worker the first alone waits."""

    noticed = False


def offline(spec: LoggerSpec) -> bool:
    """As the settings say, or else WANDB_MODE, or else where there is no key, or no server."""
    import wandb

    if Unreachable.noticed or spec.offline is not None:
        return Unreachable.noticed or bool(spec.offline)
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return True
    wandb.setup(wandb.Settings(silent=True))
    try:
        return not wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        log.warning("logger wandb: %s; mirrored on disk", error)
        return True


def begin(spec: LoggerSpec, id: str, folder: Path, mode: str) -> Any:
    import wandb

    run = wandb.init(
        name=id,
        id=id,
        dir=folder,
        mode=mode,  # type: ignore[arg-type]
        project=spec.project,
        entity=spec.entity,
        group=spec.group,
        tags=list(spec.tags),
        notes=spec.notes,
        resume=None if mode == "offline" else "allow",
        reinit="create_new",  # never the run before this one in the same process
        settings=wandb.Settings(silent=True, console="off", init_timeout=CONNECT, finish_timeout=FLUSH),
    )
    run.define_metric("*", step_metric="step")  # wandb's own counter does not know resumed runs
    return run
