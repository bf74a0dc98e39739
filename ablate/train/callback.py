"""What happens at the edge of a step: rows of the curve, looks at validation, checkpoints, and the end."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ablate.data.split import Split
from ablate.errors import AblateError
from ablate.record import Status
from ablate.spec import RunSpec
from ablate.train.evaluate import Evaluation, evaluate
from ablate.train.monitor.curve import Curve, CurveRow
from ablate.train.monitor.interrupt import Interrupt
from ablate.train.monitor.loggers import AUXILIARY_LOSS, Mirror
from ablate.train.monitor.meters import Speed
from ablate.train.monitor.progress import Display, Progress
from ablate.train.settings import Settings
from ablate.train.state.branch import Branches
from ablate.train.state.checkpoint import Checkpoints
from ablate.train.state.weights import WEIGHTS_FILE, collect_weights, save
from ablate.train.task import Task
from ablate.train.texts import Texts, scores, set_columns

log = logging.getLogger("ablate.train")

OFTEN = 0.25  # seconds between two reports of progress
FAR = 1.5  # times the first loss, or that of guessing if it is larger
LONG = (20, 0.02)  # steps, and share of the run, that a loss above this must last: a spike may pass

STATE = ("seconds", "row_step", "pending", "first", "latest", "high")  # what a resumed run must know


class Diverged(AblateError):
    """The loss is not finite, or stays far above where it began."""


@dataclass
class Outcome:
    """What the callback found out, for the record."""

    stopped: bool = False
    finished: bool = False
    metrics: dict[str, float | None] = field(default_factory=dict)
    kernel: str = ""
    weights_hash: str = ""  # on the first rank, where weights are kept
    curve_hash: str = ""  # on the first rank


class Watch(Callback):
    """Times exclude validation and checkpoints."""

    def __init__(
        self,
        spec: RunSpec,
        settings: Settings,
        id: str,
        folder: Path,
        validation: Texts,
        checkpoints: Checkpoints,
        stop: Interrupt,
        display: Display,
        on_progress: Callable[[Progress], None] | None,
        check: Callable[[], None] = lambda: None,
        branches: Branches | None = None,
    ):
        """`check` raises where nothing may be written any more, since another process does this run."""
        self.check, self.branches = check, branches
        self.spec, self.settings, self.id, self.folder = spec, settings, id, folder
        self.validation, self.checkpoints, self.stop = validation, checkpoints, stop
        self.set_columns = set_columns(validation, "validation") if spec.evaluation.every else []
        self.display, self.on_progress = display, on_progress
        self.outcome, self.speed = Outcome(), Speed()
        self.curve: Curve | None = None  # on the first rank, as the mirror
        self.mirror: Mirror | None = None
        self.seconds = 0.0  # of training up to the last row, over all resumes
        self.row_step, self.pending = 0, 0.0  # step of that row, and seconds of training since
        self.first: float | None = None  # the first loss
        self.latest: float | None = None  # validation loss
        self.high = 0  # steps for which the loss has been too high
        self.shown = -math.inf

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state[name])

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, Task)
        self.stop.listen()
        self.every = self.settings.log_every or (1 if task.device.type == "cpu" else 10)
        self.outcome.kernel = task.decoder.kernel.name
        if self.mirror is not None:
            self.mirror.describe(self.outcome.kernel)
            self.mirror.go_on([] if self.curve is None else self.curve.rows)
        self.row_at = time.perf_counter() - self.pending
        self.judged = self.row_step
        self.saved_at, self.saved_step = time.monotonic(), task.steps.done
        if self.curve is not None and self.curve.end != self.row_step:
            lost = f"of its curve the rows from step {self.curve.end + 1} to {self.row_step} are lost"
            log.warning("%s goes on, but %s; rerun=true starts over", self.id, lost)

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(task, Task)
        step = task.steps.done
        if batch == self.spec.steps:
            self.finish(trainer, task)
            return
        last = step == self.spec.steps
        look = bool(self.spec.evaluation.every) and step % self.spec.evaluation.every == 0 and not last
        if not (look or last or step % self.every == 0):
            if trainer.world_size == 1:  # several ranks ask each other at rows alone
                self.between_rows(trainer, task, step)
            return
        row, stop = self.row(task, step)
        if look:
            row |= self.look(trainer, task, self.spec.evaluation.tokens)
            self.latest = row["validation_loss"]
        self.write(row, task)
        self.judge(float(row["loss"] or 0.0), step)
        if stop or (not last and self.due(trainer, step)):
            self.save(trainer, step)
        self.leave(trainer, step)
        self.row_at = time.perf_counter()
        if stop:
            self.outcome.stopped = trainer.should_stop = True

    def between_rows(self, trainer: Trainer, task: Task, step: int) -> None:
        """Stop, or make a checkpoint that is due: without a row, which an undisturbed run has not either."""
        stop, branch = self.stop.requested, self.branches is not None and step in self.branches.steps
        if not stop and not branch and not self.due(trainer, step):
            return
        task.wait()
        self.pending = time.perf_counter() - self.row_at
        if stop or self.due(trainer, step):
            self.save(trainer, step)
        self.leave(trainer, step)
        self.row_at = time.perf_counter() - self.pending
        if stop:
            self.outcome.stopped = trainer.should_stop = True

    def finish(self, trainer: Trainer, task: Task) -> None:
        """The whole of validation, and the weights."""
        evaluated = self.evaluator(trainer, task, alone=trainer.world_size == 1)
        end, metrics = scores(self.validation, evaluated, "validation")
        self.judge(end.loss, self.spec.steps, last=True)
        self.outcome.metrics |= metrics
        self.latest = end.loss
        looked = {"validation_loss": end.loss, **{name: metrics[name] for name in self.set_columns}}
        if self.curve is not None:
            last = self.curve.rows[-1]
            last |= looked
            if "auxiliary_loss" in last:
                self.outcome.metrics[AUXILIARY_LOSS] = last["auxiliary_loss"]
        if self.mirror is not None:
            self.mirror.add({"step": self.spec.steps, **looked})
        if self.settings.keep != "none":
            state = collect_weights(task.decoder)
            self.check()
            if trainer.is_global_zero:
                self.outcome.weights_hash = save(state, self.folder / WEIGHTS_FILE)
        if self.settings.keep == "all":
            self.save(trainer, self.spec.steps)
        self.outcome.finished = True

    def ended(self) -> Status:
        """How the loop ended, once it has. Raises RuntimeError if it left something undone."""
        if self.outcome.stopped:
            return "interrupted"
        if not self.outcome.finished:
            raise RuntimeError("training ended before its last step")
        return "finished"

    def row(self, task: Task, step: int) -> tuple[CurveRow, bool]:
        """The row of this step, and whether some rank was told to stop."""
        added = task.auxiliary_loss()
        loss, stop = task.reduce_loss(self.stop.requested)
        now = time.perf_counter()
        seconds = now - self.row_at
        self.seconds += seconds
        self.speed.add((step - self.row_step) * self.spec.budget.batch_tokens, seconds)
        self.row_step, self.pending = step, 0.0
        if self.first is None:
            self.first = loss
        return {
            "step": step,
            "tokens": step * self.spec.budget.batch_tokens,
            "loss": loss,
            "lr": task.rate,
            "grad_norm": task.gradient_norm(),
            "validation_loss": None,
            "seconds": self.seconds,
            **({} if added is None else {"auxiliary_loss": added}),
            **dict.fromkeys(self.set_columns),
        }, stop

    def write(self, row: CurveRow, task: Task) -> None:
        if self.curve is not None:
            self.curve.add(row)
        if self.mirror is not None and self.mirror.logger is not None:
            self.mirror.add({**row, **{f"train/{name}": load for name, load in task.expert_load().items()}})
        step, now = int(row["step"] or 0), time.monotonic()
        if step < self.spec.steps and now - self.shown < OFTEN:
            return
        self.shown = now
        rate = self.speed.recent()
        left = (self.spec.steps - step) * self.spec.budget.batch_tokens / rate
        progress = Progress(self.id, step, self.spec.steps, float(row["loss"] or 0), self.latest, rate, left)
        with suppress(OSError):  # a terminal that is gone
            self.display.show(progress)
        if self.on_progress is not None:
            self.on_progress(progress)

    def judge(self, loss: float, step: int, last: bool = False) -> None:
        """Raises Diverged."""
        if not math.isfinite(loss):
            raise Diverged(f"the loss was {loss} at step {step}")
        bound = FAR * max(self.first or 0.0, math.log(self.spec.model.vocab or 256))
        self.high = self.high + step - self.judged if loss > bound else 0
        self.judged = step
        if loss > bound and (last or self.high >= max(LONG[0], LONG[1] * self.spec.steps)):
            began = f"{self.first or 0.0:.2f} at the first"
            raise Diverged(f"the loss was {loss:.2f} at step {step}, and {began}")

    def look(self, trainer: Trainer, task: Task, tokens: int | None) -> CurveRow:
        """The loss on the first `tokens` of validation, of a mixture's sources each in proportion; and on as
        many of each set beside them."""
        sizes = {id(split): len(split.tokens) for split in self.validation.main.values()}
        total = sum(sizes.values())
        evaluated = self.evaluator(trainer, task)

        def beginning(split: Split) -> Evaluation:
            return evaluated(
                split, None if tokens is None else -(-tokens * sizes.get(id(split), total) // total)
            )

        whole, metrics = scores(self.validation, beginning, "validation")
        return {"validation_loss": whole.loss, **{name: metrics[name] for name in self.set_columns}}

    def evaluator(self, trainer: Trainer, task: Task, alone: bool = False) -> Callable[..., Evaluation]:
        """What evaluates a split, or its first tokens. `alone`: there is one rank, which may stop between
        batches."""

        def between() -> None:
            if alone and self.stop.requested:
                self.save(trainer, task.steps.done)
                raise KeyboardInterrupt(self.stop.reason)

        world = trainer.world_size

        def evaluated(split: Split, tokens: int | None = None) -> Evaluation:
            return evaluate(
                task.decoder,
                split,
                self.spec.model.context,
                self.spec.data.documents,
                world * min(self.spec.rows // world, self.settings.micro_batch_size or self.spec.rows),
                precision=self.spec.precision,
                tokens=tokens,
                prefix=self.spec.data.prefix,
                between=between,
            )

        return evaluated

    def due(self, trainer: Trainer, step: int) -> bool:
        """Whether it is time for a checkpoint; the first rank's clock decides."""
        steps, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        if steps is not None and step // steps > self.saved_step // steps:
            return True
        if minutes is None:
            return False
        late = time.monotonic() - self.saved_at > 60 * minutes
        return bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late

    def leave(self, trainer: Trainer, step: int) -> None:
        """Keep the state where a shorter run branches off."""
        if self.branches is not None and step in self.branches.steps:
            self.check()
            self.branches.leave(trainer, step, self.curve.rows if self.curve is not None else ())

    def save(self, trainer: Trainer, step: int) -> None:
        self.check()
        if self.curve is not None:
            self.curve.sync()
        self.checkpoints.save(trainer, step)
        self.saved_at, self.saved_step = time.monotonic(), step
