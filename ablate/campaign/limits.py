"""What ends a run of a campaign before its last step: its time, or a loss far above the baseline's.

Such a run has no outcome: its record says interrupted, so no study takes it for one that diverged. Why it was
stopped stands beside the record, for the referee.
"""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ablate.record import atomic, read_lines
from ablate.train.callback import Watch
from ablate.train.monitor.curve import CurveRow

STOPPED_FILE = "stopped.json"
COMPARED_SHARE = 0.05  # the share of the steps whose mean loss is compared


class Limits(Callback):
    """Stop after `seconds` of training, or where the loss lies too high.

    It does where, from the share `after` of the steps on, the mean training loss of the latest
    `COMPARED_SHARE` is higher by `above` (nats per token) than that of the same steps of the run in
    `reference`. Both runs have one seed, and so the same batches. If that run has no curve, nothing is
    stopped."""

    def __init__(
        self,
        folder: str,
        seconds: float | None = None,
        reference: str | None = None,
        above: float | None = None,
        after: float = 0.25,
    ) -> None:
        self.folder, self.seconds = Path(folder), seconds
        self.reference = None if reference is None else Path(reference)
        self.above, self.after = above, after
        self.losses: dict[int, float] | None = None  # of the reference, by step
        self.began = time.monotonic()

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        watch = next(each for each in vars(trainer)["callbacks"] if isinstance(each, Watch))
        if watch.outcome.finished:
            return
        reason = self.too_long() or self.too_high(watch)
        if reason:
            with atomic(self.folder / STOPPED_FILE) as file:
                file.write(json.dumps({"reason": reason}).encode())
            watch.outcome.stopped = trainer.should_stop = True

    def too_long(self) -> str:
        """Why the run has had its time, or nothing."""
        if self.seconds is None or time.monotonic() - self.began <= self.seconds:
            return ""
        return f"it was stopped after {self.seconds:g} s, the limit for a run"

    def too_high(self, watch: Watch) -> str:
        """Why the loss is too high to go on, or nothing."""
        steps, rows = watch.spec.steps, watch.curve.rows if watch.curve is not None else []
        wide = max(5, round(COMPARED_SHARE * steps))
        step = int(rows[-1]["step"] or 0) if rows else 0
        if self.above is None or self.reference is None or step < self.after * steps or step % wide:
            return ""
        if self.losses is None:
            self.losses = losses_of(self.reference)
        mine = {int(row["step"] or 0): float(row["loss"] or 0.0) for row in rows[-wide:]}
        common = mine.keys() & self.losses.keys()
        if not common:
            return ""
        gap = sum(mine[each] - self.losses[each] for each in common) / len(common)
        if gap <= self.above:
            return ""
        return f"fail-fast: its training loss lay {gap:.2f} above the baseline's at step {step} of {steps}"


def losses_of(folder: Path) -> dict[int, float]:
    """The training losses of a run by step; none where it has no curve yet."""
    if (folder / "curve.parquet").is_file():
        import pandas as pd

        frame = pd.read_parquet(folder / "curve.parquet", columns=["step", "loss"])
        return dict(zip(frame["step"].tolist(), frame["loss"].tolist(), strict=True))
    rows: list[CurveRow] = list(read_lines(folder / "curve.jsonl"))
    return {int(row["step"] or 0): float(row["loss"] or 0.0) for row in rows}


def why_stopped(folder: Path) -> str:
    """Why a run was stopped by its limits; empty where it was not."""
    try:
        return str(json.loads((folder / STOPPED_FILE).read_bytes())["reason"])
    except (OSError, ValueError, KeyError):
        return ""
