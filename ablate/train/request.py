"""The request to train one run: what the command line hands to training, in this process or in another."""

from pathlib import Path
from typing import Any

from ablate.registry import load_parts
from ablate.spec import RunSpec, Strict
from ablate.train.observers import Target
from ablate.train.settings import Settings


class RunRequest(Strict):
    """One run to be trained: its specification, how and where to do it, and what to measure afterwards.

    It is typed in a process and plain JSON between processes: `payload` writes it and `read` takes it in.
    """

    spec: RunSpec
    settings: Settings
    runs: Path  # the folder of all runs; this one writes to runs/<id>
    cache: Path  # the folder of tokenised texts
    parts: tuple[str, ...] = ()  # the user's own: files or modules
    measures: tuple[str, ...] = ()  # computed from the weights when the run has finished
    start: Path | None = None  # the folder of a finished run to take the weights from
    branches: tuple[int, ...] = ()  # steps at which the state is kept for shorter runs
    stem: Path | None = None  # the folder of a longer run, whose first steps are those of this one
    callbacks: tuple[Target, ...] = ()  # the user's own, of Lightning; they watch, and are in no record
    profiler: Target | None = None
    counts: dict[str, float] | None = None  # parameters and FLOPs for the record; null: counted again
    rerun: bool = False  # train again what is finished
    outbox: Path | None = None  # the folder for the record; null: runs/<id>
    claim: Path | None = None  # a folder that is there as long as the lease is held; null: no lease

    @classmethod
    def read(cls, payload: dict[str, Any]) -> "RunRequest":
        """Load the user's parts, then validate the request. Raises ImportError, or ValidationError."""
        load_parts(list(payload.get("parts", ())))
        return cls.model_validate(payload)

    def payload(self) -> dict[str, Any]:
        """The request as plain JSON."""
        return self.model_dump(mode="json")

    def with_settings(self, **changes: Any) -> "RunRequest":
        """The same run under other settings."""
        return self.model_copy(update={"settings": self.settings.model_copy(update=changes)})
