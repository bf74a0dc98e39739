"""Copies of the curve for other tools. A mirror that breaks is let go with a warning: the run goes on, and
its record is whole."""

import logging
import os
from collections.abc import Callable, Mapping
from netrc import netrc
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ablate.train.settings import LoggerSpec

log = logging.getLogger("ablate.train")


class Mirror:
    def __init__(self, spec: LoggerSpec, id: str, folder: Path, hyperparameters: Mapping[str, Any]):
        self.name = spec.name
        self.logger: Logger | None = None
        self.guard(lambda: self.open(spec, id, folder, hyperparameters))

    def open(self, spec: LoggerSpec, id: str, folder: Path, hyperparameters: Mapping[str, Any]) -> None:
        self.logger = make(spec, id, folder)
        if self.logger is not None:
            self.logger.log_hyperparams(dict(hyperparameters))

    def add(self, row: Mapping[str, Any]) -> None:
        if self.logger is not None:
            logger, step = self.logger, int(row["step"])
            metrics = {name: float(x) for name, x in row.items() if x is not None}
            self.guard(lambda: logger.log_metrics(metrics, step=step))

    def close(self, status: str, metrics: Mapping[str, float | None]) -> None:
        if self.logger is not None:
            self.guard(lambda: self.finish(status, metrics))

    def finish(self, status: str, metrics: Mapping[str, float | None]) -> None:
        logger = self.logger
        assert logger is not None
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({"status": status, **metrics})
        logger.save()
        logger.finalize("success" if status == "finished" else "failed")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status == "finished" else 1, quiet=True)

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
        case "wandb":
            return wandb_logger(spec, id, folder)
        case _:
            return None


def wandb_logger(spec: LoggerSpec, id: str, folder: Path) -> Logger:
    import wandb

    offline = not has_key() if spec.offline is None else spec.offline
    folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name=id,
        id=id,
        save_dir=folder,
        offline=offline,
        project=spec.project,
        entity=spec.entity,
        group=spec.group,
        tags=list(spec.tags),
        notes=spec.notes,
        resume=None if offline else "allow",
        settings=wandb.Settings(silent=True, console="off", init_timeout=20, x_disable_stats=False),
    )
    run = logger.experiment
    run.define_metric("*", step_metric="step")  # a resumed run may write a step again
    return logger


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (OSError, ValueError):
        return False
