"""One run: from a specification to its record, whatever happens on the way."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from ablate.data.prepare import Prepared, prepare
from ablate.data.stream import Stream, share
from ablate.model.measure import costs_of_run, of_run
from ablate.parts.base import Refused
from ablate.provenance import provenance
from ablate.record import TRAINED, RunRecord, Status
from ablate.registry import load_parts
from ablate.spec import RunSpec
from ablate.train import ranks
from ablate.train.callback import Diverged, Watch
from ablate.train.monitor.curve import Curve
from ablate.train.monitor.interrupt import Interrupt
from ablate.train.monitor.loggers import Mirror
from ablate.train.monitor.meters import Memory
from ablate.train.monitor.progress import Display, Progress, display
from ablate.train.settings import Settings, devices, threads, torch_device
from ablate.train.speed.allocator import keep_pages
from ablate.train.state.checkpoint import Checkpoints, remove, steps_done
from ablate.train.state.source_hash import code
from ablate.train.state.warm_start import started
from ablate.train.state.weights import FILE
from ablate.train.task import Task
from ablate.train.trainer import hushed, trainer

log = logging.getLogger("ablate.train")


def fit(
    spec: RunSpec,
    prepared: Prepared,
    settings: Settings,
    runs: Path,
    *,
    start: Path | None = None,
    counts: Mapping[str, float] | None = None,
    parts: Sequence[str] = (),
    rerun: bool = False,
    outbox: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Train, and leave `runs/<id>`. The record of a run that is finished, or diverged, with the same
    sources is returned at once unless `rerun`; one that was stopped goes on from its checkpoint.

    `start` is the folder of a finished run to take the weights from. `counts` goes into the record; null:
    those of `ablate.model.measure`. `parts` are the user's own, for the processes of several devices to load.
    `outbox` is where the record is saved instead of `runs/<id>`. `on_progress` hears of the run a few times
    a second, on one device.

    The record's status says how it ended; it is returned for `finished`, `diverged`, `out_of_memory`,
    `interrupted` and `refused`. Any other exception leaves a record of `crashed` and is raised again.
    """
    if start is None and spec.parent is not None:
        start = runs / spec.parent
    if start is not None:
        spec = started(spec, prepared, start)
    share(spec.rows, (0, devices(settings) * settings.nodes))  # raises if rows cannot be shared
    run = Run(spec, prepared, settings, runs, start, counts, outbox, on_progress)
    known = run.known()
    if known is not None and not rerun:
        if outbox is not None:
            known.save(outbox)
        return known
    if rerun and ranks.main():
        run.checkpoints.drop()
        (run.folder / "curve.jsonl").unlink(missing_ok=True)
    with Interrupt() as stop, threads(settings.threads):
        if devices(settings) > 1 and not ranks.inside():
            return ranks.spread(run, stop, parts, rerun)
        return run.attempt(stop, rerun)


class Run:
    """What is fixed about a run before it begins."""

    def __init__(
        self,
        spec: RunSpec,
        prepared: Prepared,
        settings: Settings,
        runs: Path,
        start: Path | None,
        counts: Mapping[str, float] | None,
        outbox: Path | None,
        on_progress: Callable[[Progress], None] | None,
    ):
        self.spec, self.prepared, self.settings, self.runs, self.start = spec, prepared, settings, runs, start
        self.device = torch_device(settings)
        if counts is None:
            counts = asdict(costs_of_run(spec, of_run(spec, self.device)))
        self.counts = dict(counts)
        self.outbox, self.on_progress = outbox, on_progress
        self.id, self.code = spec.id(prepared.fingerprint), code(spec)
        self.folder = runs / self.id
        self.checkpoints = Checkpoints(self.folder, self.code)
        self.began = datetime.now(UTC)

    def known(self) -> RunRecord | None:
        """The record of this run, if it has an outcome and is of these sources."""
        try:
            record = RunRecord.load(self.folder)
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s cannot be read (%s); training again", self.folder / "record.json", error)
            return None
        return record if record.status in TRAINED and record.code == self.code else None

    def attempt(self, stop: Interrupt, anew: bool) -> RunRecord:
        """Train in this process, and save the record of how it ended."""
        try:
            record = self.train(stop, anew)
        except Diverged as error:
            record = self.record("diverged", str(error))
        except Refused as error:
            record = self.record("refused", str(error))
        except KeyboardInterrupt as error:
            record = self.record("interrupted", str(error) or stop.reason or "stopped")
        except SystemExit as error:  # Lightning's answer to a second Ctrl-C
            record = self.record("interrupted", stop.reason or f"exit {error.code}")
        except Exception as error:
            if out_of_memory(error):
                record = self.record("out_of_memory", first_line(error))
            else:
                self.save(self.record("crashed", f"{type(error).__name__}: {first_line(error)}"))
                raise
        self.save(record)
        if record.status in TRAINED and self.settings.keep != "all" and ranks.main():
            self.checkpoints.drop()
        return record

    def train(self, stop: Interrupt, anew: bool) -> RunRecord:
        """`anew`: from the first step, whatever checkpoints the first rank has yet to drop."""
        settings, spec = self.settings, self.spec
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.device == "cpu":
            keep_pages()
        memory = Memory(self.device)
        task = Task(spec, self.stream(), settings, self.start / FILE if self.start else None)
        resume = None if anew else self.checkpoints.newest()
        if resume is not None and (resume / "state").is_dir() != (settings.strategy == "fsdp"):
            raise ValueError(
                f"the checkpoint {resume} is of another strategy, fsdp or not: go on with the trainer that "
                "made it; rerun=true starts over"
            )
        main = ranks.main()
        with hushed(), display(settings.progress, main) as shown:
            watch = self.watch(stop, shown)
            if main:
                self.open(watch, steps_done(resume))
            status: Status = "crashed"
            try:
                lightning = trainer(spec, settings, [watch])
                lightning.fit(task, ckpt_path=resume and resume / "state", weights_only=True)
                status = watch.ended()
                if main and status == "finished":
                    self.keep(watch)
            except Diverged:
                status = "diverged"
                raise
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            finally:
                self.close(watch, status)
        speed = {"seconds": watch.seconds}
        rate = watch.speed.median()
        return self.record(
            status,
            stop.reason if status == "interrupted" else "",
            metrics=watch.outcome.metrics,
            speed=speed if rate is None else {"tokens_per_second": rate, **speed},
            memory=memory.peak(),
            kernel=watch.outcome.kernel,
        )

    def stream(self) -> Stream:
        spec = self.spec
        return Stream(
            self.prepared.splits["train"],
            spec.model.context,
            spec.data.documents,
            spec.seed.data,
            spec.data.prefix,
        )

    def watch(self, stop: Interrupt, shown: Display) -> Watch:
        return Watch(
            self.spec,
            self.settings,
            self.id,
            self.folder,
            self.prepared.splits["validation"],
            self.checkpoints,
            stop,
            shown,
            self.on_progress,
        )

    def open(self, watch: Watch, done: int = 0) -> None:
        """Begin the curve, of which `done` steps are made, and its mirror."""
        watch.curve = Curve(self.folder, done)
        flops = self.counts.get("training_flops")
        watch.mirror = Mirror(self.settings.logger, self.id, self.folder, self.spec, flops)
        watch.mirror.go_on(watch.curve.rows)

    def keep(self, watch: Watch) -> None:
        """What a finished run leaves beside its weights. Those of other sources must not pass for its own."""
        if watch.curve is not None:
            watch.curve.finish()
        words = self.folder / "tokenizer"  # with the weights, so that the run speaks by itself
        if self.settings.keep == "none":
            remove(self.folder / FILE.parent)
            remove(words)
        else:
            words.mkdir(exist_ok=True)
            self.prepared.tokenizer.save(words)

    def close(self, watch: Watch, status: Status) -> None:
        if watch.curve is not None:
            watch.curve.close()
            if status == "diverged":
                (self.folder / "curve.parquet").unlink(missing_ok=True)  # of other sources
        if watch.mirror is not None:
            pace = {"tokens_per_second": watch.speed.median()}
            watch.mirror.close(status, {**watch.outcome.metrics, **pace})

    def record(self, status: Status, reason: str, **found: Any) -> RunRecord:
        world = devices(self.settings) * self.settings.nodes
        return RunRecord(
            id=self.id,
            status=status,
            reason=reason,
            code=self.code,
            spec=self.spec.model_dump(mode="json"),
            fingerprint=self.prepared.fingerprint,
            counts=self.counts,
            provenance={
                **provenance(self.device, world, self.settings.strategy),
                "began": self.began.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                "data": self.prepared.files,
                "settings": self.settings.model_dump(mode="json"),
            },
            **found,
        )

    def save(self, record: RunRecord) -> None:
        if self.outbox is not None:
            record.save(self.outbox)
        elif ranks.main():
            record.save(self.folder)


def perform(payload: dict[str, Any]) -> RunRecord:
    """The run that a payload of plain JSON asks for: `spec`, `settings`, `runs`, `cache`, `parts`, and maybe
    `start`, `counts`, `rerun` and `outbox`."""
    load_parts(list(payload.get("parts", [])))
    spec = RunSpec.model_validate(payload["spec"])
    start, outbox = payload.get("start"), payload.get("outbox")
    return fit(
        spec,
        prepare(spec.data, Path(payload["cache"])),
        Settings.model_validate(payload["settings"]),
        Path(payload["runs"]),
        counts=payload.get("counts"),
        parts=payload.get("parts", ()),
        rerun=bool(payload.get("rerun", False)),
        start=Path(start) if start else None,
        outbox=Path(outbox) if outbox else None,
    )


def work(payload: dict[str, Any]) -> None:
    """What a worker process does with a job: the same, quietly. The record says how it ended; an exception is
    raised again after it. What the compiler fails on is trained as it is."""
    settings = {**payload["settings"], "progress": False}
    try:
        perform({**payload, "settings": settings})
    except TorchDynamoException:
        log.warning("the compiler failed, so the run is trained without it:", exc_info=True)
        perform({**payload, "settings": {**settings, "compile": False}})


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, of the process, or of torch's allocator on the CPU, which has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
