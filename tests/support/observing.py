"""Callbacks of a user, for the tests. Each leaves a line in the file that the environment names."""

import os
from pathlib import Path

from lightning.pytorch import Callback


def note(line: str) -> None:
    with Path(os.environ["OBSERVED"]).open("a") as f:
        f.write(line + "\n")


class Counts(Callback):
    """Notes every n-th step."""

    def __init__(self, every: int = 1):
        self.every = every

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        if (index + 1) % self.every == 0:
            note(f"step {index + 1}")

    def state_dict(self):
        return {"every": self.every}


def called() -> None:
    note("called")
