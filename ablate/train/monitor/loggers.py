"""Copies of the curve for other tools. A mirror that breaks is let go with a warning: the run goes on, and
its record is whole."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train.monitor.utilisation import Pace, peak_flops
from ablate.train.settings import LoggerSpec

if TYPE_CHECKING:  # importing Lightning takes seconds, which a plan need not spend
    from lightning.pytorch.loggers import Logger

log = logging.getLogger("ablate.train")

CONNECT = 20.0  # seconds that W&B has to answer before a run begins
FLUSH = 30.0  # seconds that the rest of the curve has to arrive when it has ended

AUXILIARY_LOSS = "train/auxiliary_loss"  # in records too

# The curve's columns in trackers: sections `train/`, `validation/`, `speed/`, in which every number has the
# name that it has in records and reports. `step`, `tokens` and `flops` are what they are plotted against.
NAMES = {
    "loss": "train/loss",
    "auxiliary_loss": AUXILIARY_LOSS,
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "seconds": "train/seconds",
    "validation_loss": "validation/loss",
}


class Mirror:
    """Takes rows with the names of the curve's columns and writes them under those of `NAMES`, with the pace
    since the last row.

    `facts` describe the run: `counts`, `device_kind`, `devices` and whatever a reader should find beside its
    specification. `describe` begins the mirror, once the kernel is known too.
    """

    def __init__(self, spec: LoggerSpec, id: str, folder: Path, run: RunSpec, facts: Mapping[str, Any]):
        self.spec, self.run, self.facts = spec, run, facts
        self.name = spec.name
        self.logger: Any = None  # one of Lightning's
        self.batch_tokens = run.budget.batch_tokens
        self.flops: float | None = facts.get("counts", {}).get("training_flops")  # for each token
        kind, devices = str(facts.get("device_kind", "")), int(facts.get("devices", 1))
        peak = spec.peak_flops or peak_flops(kind, run.precision)
        self.pace = Pace(self.flops, None if peak is None else peak * devices)
        self.guard(lambda: self.open(id, folder))

    def open(self, id: str, folder: Path) -> None:
        self.logger = make(self.spec, id, folder)

    def describe(self, kernel: str) -> None:
        """Write the configuration: the specification, the facts, the kernel and what the user says of the
        run."""
        if self.logger is not None:
            logger = self.logger
            said = {**self.run.model_dump(mode="json"), **self.facts, "kernel": kernel, **self.spec.config}
            self.guard(lambda: logger.log_hyperparams(said))

    def add(self, row: Mapping[str, Any]) -> None:
        """Every row says its tokens and FLOPs: W&B plots one column against another only where a row has
        both."""
        if self.logger is not None:
            logger, step = self.logger, int(row["step"])
            tokens = step * self.batch_tokens
            metrics = {NAMES.get(name, name): float(x) for name, x in row.items() if x is not None}
            metrics["tokens"] = float(tokens)
            if self.flops is not None:
                metrics["flops"] = tokens * self.flops
            if row.get("seconds") is not None:
                metrics |= self.pace(tokens, float(row["seconds"]))
            at = None if self.name == "wandb" else step  # it would add a column of its own
            self.guard(lambda: logger.log_metrics(metrics, step=at))

    def go_on(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """From these rows of a run that is resumed. Lightning has deleted the CSV file that had them."""
        if self.name == "csv":
            for row in rows:
                self.add(row)
        elif rows:
            self.pace.pass_over(float(rows[-1]["tokens"]), float(rows[-1]["seconds"]))

    def close(self, status: str, metrics: Mapping[str, float | None]) -> None:
        if self.logger is not None:
            self.guard(lambda: self.finish(status, metrics))

    def finish(self, status: str, metrics: Mapping[str, float | None]) -> None:
        logger = self.logger
        assert logger is not None
        if self.name == "wandb":
            summarise(logger.experiment, status, metrics)
        logger.save()
        logger.finalize("success" if status == "finished" else "failed")
        if self.name == "wandb":
            logger.experiment.finish(exit_code=0 if status == "finished" else 1)

    def guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # none of a mirror's faults may cost a run
            log.warning("logger %s: %s: %s; going on without it", self.name, type(error).__name__, error)
            self.logger = None


def run_facts(
    source_hash: str, fingerprint: Mapping[str, str], counts: Mapping[str, float], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """What a tracker says of a run beside its specification. `origin` is the record's provenance."""
    named = ("device", "device_kind", "devices", "strategy", "torch", "ablate", "git")
    hashes = {"source_hash": source_hash, "fingerprint": dict(fingerprint)}
    return {"counts": dict(counts), **hashes, **{name: _plain(origin.get(name)) for name in named}}


def _plain(value: Any) -> str | int | float | None:
    """A number as it is, and text without the class that torch gives its version."""
    return value if value is None or isinstance(value, int | float) else str(value)


def summarise(run: Any, status: str, metrics: Mapping[str, float | None]) -> None:
    """Put the outcome into the summary of a W&B run."""
    known = {name: value for name, value in metrics.items() if value is not None}
    run.summary.update({"status": status, "diverged": float(status == "diverged"), **known})


def mirror_scores(spec: LoggerSpec, record: RunRecord, folder: Path) -> None:
    """Add the numbers of a scored run to its mirror: at W&B to the summary, in Trackio as a last row. A fault
    is a warning."""
    mirrored = spec.name == "trackio" or (spec.name == "wandb" and (folder / "wandb").is_dir())
    if not mirrored:
        return
    run = RunSpec.model_validate(record.spec)
    facts = run_facts(record.source_hash, record.fingerprint, record.counts, record.provenance)
    mirror = Mirror(spec, record.id, folder, run, facts)
    mirror.describe(record.kernel)
    speed = {f"speed/{name}": value for name, value in record.speed.items()}
    if spec.name == "trackio":
        scores = {
            name: value for name, value in record.metrics.items() if name.split("/")[0] in record.measures
        }
        mirror.add({"step": run.steps, **scores})
    mirror.close(record.status, {**speed, **record.metrics})


def make(spec: LoggerSpec, id: str, folder: Path) -> "Logger | None":
    """Lightning's logger of that name; None for none."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    from ablate.train.monitor.trackio_logger import TrackioLogger

    match spec.name:
        case "csv":
            return CSVLogger(folder, name="csv", version="")
        case "tensorboard":
            return TensorBoardLogger(folder, name="tensorboard", version="")
        case "wandb" if os.environ.get("WANDB_MODE") == "disabled":
            return None
        case "wandb":
            return WandbLogger(experiment=wandb_run(spec, id, folder))
        case "trackio":
            return TrackioLogger(spec.project, f"{spec.run_name or 'run'} {id}", spec.group)
        case _:
            return None


def wandb_run(spec: LoggerSpec, id: str, folder: Path) -> Any:
    """A W&B run. Where the server does not answer, one that is kept on disk for `wandb sync`."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    if offline(spec):
        return begin_logger(spec, id, folder, "offline")
    try:
        return begin_logger(spec, id, folder, "online")
    except (wandb.Error, OSError, TimeoutError) as error:
        log.warning("logger wandb: %s; the run is mirrored on disk instead, see `wandb sync`", error)
        Unreachable.noticed = True
        wandb.teardown()  # or the id would still be in use
        return begin_logger(spec, id, folder, "offline")


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


def begin_logger(spec: LoggerSpec, id: str, folder: Path, mode: str) -> Any:
    """Start a W&B run, or go on with it, in the mode `online` or `offline`."""
    import wandb

    run = wandb.init(
        name=spec.run_name or id,
        id=id,
        dir=folder,
        mode=mode,  # type: ignore[arg-type]
        project=spec.project,
        entity=spec.entity,
        group=spec.group,
        job_type=spec.job_type,
        tags=list(spec.tags),
        notes=spec.notes,
        resume=None if mode == "offline" else "allow",
        reinit="create_new",  # never the run before this one in the same process
        settings=wandb.Settings(silent=True, console="off", init_timeout=CONNECT, finish_timeout=FLUSH),
    )
    run.define_metric("*", step_metric="step")  # wandb's own counter does not know resumed runs
    return run
