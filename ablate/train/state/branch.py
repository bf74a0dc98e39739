"""Runs that share a stem: a long run leaves its state where a shorter one of its schedule begins to decay.

    runs/<id>/branch/<code>-<step>/    a checkpoint of the long run, as `Checkpoints` writes one
    runs/<id>/branch/curve.jsonl       the rows of its curve up to the last of these steps

A shorter run that has made no step of its own takes the checkpoint and the rows over and goes on from there,
as if it had been stopped at that step. Its result is bit for bit that of a run from the first step, since all
steps before are the same: the two specifications differ in `budget.tokens` alone, and their schedules agree.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Trainer

from ablate.record import RunRecord, atomic
from ablate.spec import RunSpec
from ablate.train.monitor.curve import CurveRow
from ablate.train.schedule import factor
from ablate.train.state.checkpoint import Checkpoints, checkpoint_damage, remove, steps_done

BRANCHES = "branch"


class Branches:
    """The states that a run leaves for shorter ones, at these steps."""

    def __init__(self, folder: Path, source_hash: str, steps: Iterable[int]):
        self.folder, self.steps = folder / BRANCHES, frozenset(steps)
        self.checkpoints = Checkpoints(folder, source_hash, BRANCHES, kept=None)

    def leave(self, trainer: Trainer, step: int, rows: Iterable[CurveRow]) -> None:
        """After `step` steps. All ranks must call it together; `rows` are those of the first."""
        self.checkpoints.save(trainer, step)
        if trainer.is_global_zero:
            with atomic(self.folder / "curve.jsonl") as f:
                f.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def complete(self) -> bool:
        """Whether every state is there and sound."""
        there = {steps_done(path) for path in self.checkpoints.paths() if not checkpoint_damage(path)}
        return self.steps <= there


def shared_steps(short: RunSpec, long: RunSpec) -> int:
    """How many steps two runs have in common; 0 where they differ in more than the number of tokens."""
    if short.steps > long.steps or _without_tokens(short) != _without_tokens(long):
        return 0
    for step in range(short.steps):
        if factor(short.schedule, step, short.steps) != factor(long.schedule, step, long.steps):
            return step
    return short.steps - 1


def take_over(stem: Path, spec: RunSpec, checkpoints: Checkpoints) -> Path | None:
    """Put the state of the stem into a run that has none; return its checkpoint, None where there is no state
    that the run could go on from."""
    try:
        record = RunRecord.load(stem)
    except (FileNotFoundError, ValueError):
        return None
    most = shared_steps(spec, RunSpec.model_validate(record.spec))
    states = Checkpoints(stem, checkpoints.source_hash, BRANCHES).paths()
    usable = [path for path in states if steps_done(path) <= most and not checkpoint_damage(path)]
    curve = stem / BRANCHES / "curve.jsonl"
    if not usable or not curve.is_file():
        return None
    aside = checkpoints.folder / f".{usable[0].name}"
    remove(aside)
    shutil.copytree(usable[0], aside)
    shutil.copyfile(curve, checkpoints.folder.parent / "curve.jsonl")
    os.replace(aside, checkpoints.folder / usable[0].name)
    return checkpoints.newest()


def _without_tokens(spec: RunSpec) -> dict[str, object]:
    node = spec.model_dump(mode="json")
    return {**node, "budget": {**node["budget"], "tokens": 0}}
