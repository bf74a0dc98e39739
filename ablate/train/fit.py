"""One run: from a specification to its record, whatever happens on the way."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from ablate.data.blend import Blend, training_stream
from ablate.data.prepare import Prepared, prepare
from ablate.data.stream import Stream, share
from ablate.engine.lease import LeaseLost
from ablate.engine.store import identity_of
from ablate.model.measure import costs_of_run, of_run
from ablate.parts.base import IncompatibleParts
from ablate.provenance import provenance
from ablate.record import TRAINED, RunRecord, Status
from ablate.spec import RunSpec
from ablate.train import ranks
from ablate.train.callback import Diverged, Watch
from ablate.train.kept_config import keep_config
from ablate.train.monitor.curve import Curve
from ablate.train.monitor.interrupt import Interrupt
from ablate.train.monitor.loggers import Mirror, run_facts
from ablate.train.monitor.meters import Memory
from ablate.train.monitor.progress import Display, Progress, display
from ablate.train.observers import make_callbacks, make_profiler, target_name
from ablate.train.request import RunRequest
from ablate.train.settings import Settings, devices, threads, torch_device
from ablate.train.speed.allocator import keep_pages
from ablate.train.state.branch import Branches, take_over
from ablate.train.state.checkpoint import Checkpoints, remove, steps_done
from ablate.train.state.source_hash import source_hash
from ablate.train.state.warm_start import started
from ablate.train.state.weights import WEIGHTS_FILE
from ablate.train.task import Task
from ablate.train.texts import texts_of
from ablate.train.trainer import quiet_lightning, trainer

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
    branches: Sequence[int] = (),
    stem: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Train one run; `perform_request` with the fields of a request as arguments."""
    request = RunRequest(
        spec=spec,
        settings=settings,
        runs=runs,
        cache=prepared.folder.parent,
        parts=tuple(parts),
        start=start,
        branches=tuple(branches),
        stem=stem,
        counts=None if counts is None else dict(counts),
        rerun=rerun,
        outbox=outbox,
    )
    return perform_request(request, prepared, on_progress)


def perform_request(
    request: RunRequest,
    prepared: Prepared | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Train the requested run, and leave `runs/<id>`. The record of a run that is finished, or diverged, with
    the same sources is returned at once unless the request says `rerun`; one that was stopped goes on from
    its checkpoint.

    `prepared` is the text of the run, where the caller has it. `on_progress` hears of the run a few times
    a second, on one device.

    The record's status says how it ended; it is returned for `finished`, `diverged`, `out_of_memory`,
    `interrupted` and `refused`. Any other exception leaves a record of `crashed` and is raised again.
    Raises LeaseLost, and writes nothing more, where `request.claim` is gone.
    """
    prepared = prepared or prepare(request.spec.data, request.cache)
    spec, settings, start = request.spec, request.settings, request.start
    if start is None and spec.parent is not None:
        start = request.runs / spec.parent
    if start is not None:
        request = request.model_copy(update={"spec": started(spec, prepared, start), "start": start})
    share(spec.rows, (0, devices(settings) * settings.nodes))  # raises if rows cannot be shared
    run = Run(request, prepared, on_progress)
    known = run.known()
    if known is not None and not request.rerun:
        if run.outbox is not None:
            known.save(run.outbox)
        return known
    if request.rerun and ranks.is_main_rank():
        run.checkpoints.drop()
        (run.folder / "curve.jsonl").unlink(missing_ok=True)
    with Interrupt() as stop, threads(settings.threads):
        if devices(settings) > 1 and not ranks.is_started_rank():
            return ranks.launch_ranks(run, stop)
        return run.attempt(stop, request.rerun)


class Run:
    """What is fixed about a run before it begins."""

    def __init__(
        self,
        request: RunRequest,
        prepared: Prepared,
        on_progress: Callable[[Progress], None] | None = None,
    ):
        self.request, self.prepared, self.on_progress = request, prepared, on_progress
        self.spec, self.settings = request.spec, request.settings
        self.start, self.outbox = request.start, request.outbox
        self.device = torch_device(self.settings)
        counts = request.counts
        if counts is None:
            counts = asdict(costs_of_run(self.spec, of_run(self.spec, self.device)))
        self.counts = dict(counts)
        self.id, self.source_hash = self.spec.id(prepared.fingerprint), source_hash(self.spec)
        self.folder = request.runs / self.id
        self.checkpoints = Checkpoints(self.folder, self.source_hash)
        self.branches = Branches(self.folder, self.source_hash, request.branches)
        self.began = datetime.now(UTC)

    @property
    def place(self) -> Path:
        """Where the record, the weights and the finished curve go: the outbox of the lease, from which the
        store moves them into the run's folder; without a lease, the folder."""
        return self.folder if self.outbox is None else self.outbox

    @cached_property
    def origin(self) -> dict[str, Any]:
        """The machine, the libraries and the commit. Asked before the first step, so that an environment in
        which it cannot be told costs no training."""
        world = devices(self.settings) * self.settings.nodes
        return provenance(self.device, world, self.settings.strategy)

    def known(self) -> RunRecord | None:
        """The record of this run, if it has an outcome and is of these sources."""
        try:
            record = RunRecord.load(self.folder)
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s cannot be read (%s); training again", self.folder / "record.json", error)
            return None
        if record.status not in TRAINED or record.source_hash != self.source_hash:
            return None
        if identity_of(record) != self.id:
            log.warning("%s is the record of another run; training again", self.folder / "record.json")
            return None
        return record

    def attempt(self, stop: Interrupt, anew: bool) -> RunRecord:
        """Train in this process, and save the record of how it ended."""
        try:
            record = self.train(stop, anew)
        except LeaseLost:  # no outcome: the other process leaves one
            raise
        except Diverged as error:
            record = self.record("diverged", str(error))
        except IncompatibleParts as error:
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
        if (
            record.status in TRAINED
            and not self.lost()
            and self.settings.keep != "all"
            and ranks.is_main_rank()
        ):
            self.checkpoints.drop()
        return record

    def train(self, stop: Interrupt, anew: bool) -> RunRecord:
        """`anew`: from the first step, whatever checkpoints the first rank has yet to drop."""
        settings, spec = self.settings, self.spec
        self.check()
        _ = self.origin
        callbacks = make_callbacks(self.request.callbacks)
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler = make_profiler(self.request.profiler, self.folder)
        if ranks.is_main_rank():
            keep_config(self.request, self.folder)
        if self.device == "cpu":
            keep_pages()
        memory = Memory(self.device)
        task = Task(spec, self.stream(), settings, self.start / WEIGHTS_FILE if self.start else None)
        resume = None if anew else self.checkpoints.newest()
        if resume is None and not anew and self.request.stem is not None:
            resume = take_over(self.request.stem, spec, self.checkpoints)
        if resume is not None and (resume / "state").is_dir() != (settings.strategy == "fsdp"):
            raise ValueError(
                f"the checkpoint {resume} is of another strategy, fsdp or not: go on with the trainer that "
                "made it; rerun=true starts over"
            )
        main = ranks.is_main_rank()
        with quiet_lightning(), display(settings.progress, main) as shown:
            watch = self.watch(stop, shown)
            if resume is not None:
                step = f"step {steps_done(resume)}/{spec.steps}"
                shown.note(f"{self.id}  goes on from {step}; rerun=true starts over")
            if main:
                self.open(watch, steps_done(resume))
            status: Status = "crashed"
            try:
                lightning = trainer(spec, settings, [watch, *callbacks], profiler)
                lightning.fit(task, ckpt_path=resume and resume / "state", weights_only=True)
                ended = watch.ended()
                if main and ended == "finished":
                    self.keep(watch)
                record = self.outcome(watch, ended, stop, memory)
                status = ended
            except Diverged:
                status = "diverged"
                raise
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            finally:
                self.close(watch, status)
        return record

    def outcome(self, watch: Watch, status: Status, stop: Interrupt, memory: Memory) -> RunRecord:
        """The record of a run that came to its end or was told to stop."""
        speed = {"seconds": watch.seconds}
        rate = watch.speed.median()
        return self.record(
            status,
            stop.reason if status == "interrupted" else "",
            metrics=watch.outcome.metrics,
            speed=speed if rate is None else {"tokens_per_second": rate, **speed},
            memory=memory.peak(),
            kernel=watch.outcome.kernel,
            weights_hash=watch.outcome.weights_hash,
            curve_hash=watch.outcome.curve_hash,
        )

    def stream(self) -> Stream | Blend:
        return training_stream(self.prepared, self.spec)

    def watch(self, stop: Interrupt, shown: Display) -> Watch:
        return Watch(
            self.spec,
            self.settings,
            self.id,
            self.place,
            texts_of(self.prepared, "validation"),
            self.checkpoints,
            stop,
            shown,
            self.on_progress,
            self.check,
            self.branches,
        )

    def lost(self) -> bool:
        """Whether another process has taken the run over, so that what lies in its folder is the other's."""
        return self.request.claim is not None and not self.request.claim.is_dir()

    def check(self) -> None:
        """Raise LeaseLost where another process has taken the run over."""
        if self.lost():
            raise LeaseLost(f"another process has taken {self.id} over")

    def open(self, watch: Watch, done: int = 0) -> None:
        """Begin the curve, of which `done` steps are made, and its mirror."""
        watch.curve = Curve(self.folder, done, watch.set_columns)
        facts = run_facts(self.source_hash, self.prepared.fingerprint, self.counts, self.origin)
        watch.mirror = Mirror(self.settings.logger, self.id, self.folder, self.spec, facts)

    def keep(self, watch: Watch) -> None:
        """What a finished run leaves beside its weights. Those of other sources must not pass for its own.
        Raises LeaseLost."""
        self.check()
        if watch.curve is not None:
            watch.outcome.curve_hash = watch.curve.finish(self.place)
        words = self.place / "tokenizer"  # with the weights, so that the run speaks by itself
        if self.settings.keep == "none":
            remove(self.place / WEIGHTS_FILE.parent)
            remove(words)
        else:
            words.mkdir(parents=True, exist_ok=True)
            self.prepared.tokenizer.save(words)

    def close(self, watch: Watch, status: Status) -> None:
        if watch.curve is not None:
            watch.curve.close()
            if status == "diverged" and not self.lost():
                (self.place / "curve.parquet").unlink(missing_ok=True)  # of other sources
        if watch.mirror is not None:
            pace = {"speed/tokens_per_second": watch.speed.median()}
            watch.mirror.close(status, {**watch.outcome.metrics, **pace})

    def record(self, status: Status, reason: str, **measured: Any) -> RunRecord:
        return RunRecord(
            id=self.id,
            status=status,
            reason=reason,
            source_hash=self.source_hash,
            spec=self.spec.model_dump(mode="json"),
            fingerprint=self.prepared.fingerprint,
            counts=self.counts,
            provenance={
                **self.origin,
                "began": self.began.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                "data": self.prepared.files,
                "settings": self.settings.model_dump(mode="json"),
                "callbacks": [target_name(target) for target in self.request.callbacks],
            },
            **measured,
        )

    def save(self, record: RunRecord) -> None:
        if self.outbox is not None or ranks.is_main_rank():
            record.save(self.place)


def train_work(payload: dict[str, Any]) -> None:
    """What a worker process does with the payload of a `RunRequest`: train it quietly. The record says how it
    ended; an exception is raised again after it."""
    perform_quietly(RunRequest.read(payload))


def perform_quietly(request: RunRequest) -> None:
    """Train without a progress bar; where the compiler fails, once more without it."""
    request = request.with_settings(progress=False)
    try:
        perform_request(request)
    except TorchDynamoException:
        log.warning("the compiler failed, so the run is trained without it:", exc_info=True)
        perform_request(request.with_settings(compile=False))


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, of the process, or of torch's allocator on the CPU, which has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).splitlines()), "")
