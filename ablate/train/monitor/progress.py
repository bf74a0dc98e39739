"""What a person sees of a run while it trains. A terminal that is gone ends no run."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    id: str
    step: int  # optimizer steps done
    steps: int
    loss: float  # of training, since the last report
    validation_loss: float | None
    tokens_per_second: float
    seconds_left: float


class Display(Protocol):
    """Shows the progress of a run while it is entered."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, progress: Progress) -> None: ...
    def note(self, line: str) -> None: ...


class Quiet:
    """A display that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass

    def note(self, line: str) -> None:
        pass


class Lines(Quiet):
    """A line for each tenth of the run."""

    def __init__(self, write: Callable[[str], object] | None = None):
        self.write = write or (lambda line: print(line, flush=True))
        self.tenth = -1

    def show(self, progress: Progress) -> None:
        tenth = 10 * progress.step // progress.steps
        if tenth > self.tenth:
            self.tenth = tenth
            self.write(f"{progress.id}  step {progress.step}/{progress.steps}  {numbers(progress)}")

    def note(self, line: str) -> None:
        self.write(line)


class Bar(Quiet):
    """A bar that is drawn anew four times a second."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Rich

        self.rich = Rich(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            refresh_per_second=4,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self.rich.stop()

    def show(self, progress: Progress) -> None:
        if not self.rich.tasks:
            self.rich.add_task(progress.id, total=progress.steps, numbers="")
        self.rich.update(self.rich.tasks[0].id, completed=progress.step, numbers=numbers(progress))

    def note(self, line: str) -> None:
        self.rich.console.print(line, markup=False, highlight=False)


def numbers(progress: Progress) -> str:
    """One line of loss, tokens/s and time left."""
    validation = "" if progress.validation_loss is None else f"  validation {progress.validation_loss:.4f}"
    left = clock_text(progress.seconds_left)
    return f"loss {progress.loss:.4f}{validation}  {progress.tokens_per_second:,.0f} tokens/s  {left} left"


def clock_text(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def display(wish: bool | Literal["auto"], main: bool) -> Display:
    """`main` is true on the first rank, which alone speaks."""
    if not main or wish is False:
        return Quiet()
    return Bar() if sys.stdout.isatty() else Lines()
