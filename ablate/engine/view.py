"""What a study shows while it runs: a live view in a terminal, quiet lines elsewhere.

    12/24 done · 2 running · 1 failed · 3 min left

and below it the runs under way and the present ranking. Failures stay on the screen as they happen.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate.amounts import duration
from ablate.engine.launch import Event

YELLOW = dict.fromkeys(("interrupted", "elsewhere"), "yellow")
COLOURS = {"finished": "green", "out_of_memory": "magenta", **YELLOW}  # else red
Ranking = Callable[[], list[tuple[str, str]]]


class View:
    """Hears the engine's events: `with View(total=24, slots=2) as view: launch(..., view)`.

    `name` turns a run's id into words (arm and seed); `ranking` gives pairs of arm and score, best first,
    and is asked again after each run. All text is shown as it is: markup in it means nothing.
    """

    def __init__(
        self,
        total: int,
        slots: int,
        name: Callable[[str], str] = str,
        ranking: Ranking | None = None,
        console: Console | None = None,
    ):
        self.total, self.slots, self.name, self.ranking = total, slots, name, ranking
        self.console = console or Console()
        self.done: dict[str, str] = {}  # status by id
        self.skipped = 0
        self.running: dict[str, tuple[float, str]] = {}  # since, slot
        self.seconds: list[float] = []  # of the runs done here
        self.ranks: list[tuple[str, str]] = []
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
        elif self.skipped == self.total:
            self.console.print(self.summary())

    def __call__(self, event: Event) -> None:
        self.note(event)
        line = self.line(event)
        if line is not None and (self.live is None or event.status != "finished"):
            self.console.print(line, soft_wrap=True)

    def note(self, event: Event) -> None:
        if event.kind == "begun":
            self.running[event.id] = (time.monotonic(), event.slot)
            return
        self.running.pop(event.id, None)
        if event.kind == "skipped":
            self.skipped += 1
        if event.kind in ("skipped", "ended"):
            self.done[event.id] = event.status
        if event.kind == "ended":
            self.seconds.append(event.seconds)
            if self.ranking is not None:
                self.ranks = self.ranking()

    def line(self, event: Event) -> Text | None:
        """One line for an event that a person wants to see; None for the others."""
        if event.kind in ("begun", "skipped"):
            return None
        text = Text.assemble(
            f"{len(self.done)}/{self.total}  ",
            (event.status or event.kind, COLOURS.get(event.status or event.kind, "red")),
            f"  {self.name(event.id)}  {event.seconds:.1f} s",
        )
        if event.reason:
            text.append(f"  {event.reason}")
        if event.kind == "again":
            text.append("  (tried again)")
        return text

    def summary(self) -> Text:
        failed = sum(status != "finished" for status in self.done.values())
        parts = [f"{len(self.done)}/{self.total} done", f"{len(self.running)} running"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{self.skipped} were there"] if self.skipped else []
        left = self.left()
        parts += [f"{duration(left)} left"] if left is not None else []
        return Text(" · ".join(parts))

    def left(self) -> float | None:
        """Seconds to the end at the mean length of the runs so far; None before the first has ended."""
        if not self.seconds:
            return None
        mean = sum(self.seconds) / len(self.seconds)
        now = time.monotonic()
        begun = sum(min(mean, now - since) for since, _ in self.running.values())
        runs = self.total - len(self.done)
        slots = max(1, min(self.slots, runs))
        return max(0.0, (runs * mean - begun) / slots)

    def render(self) -> Group:
        now = time.monotonic()
        runs = Table.grid(padding=(0, 2))
        for id, (since, slot) in self.running.items():
            runs.add_row(Text(slot, style="dim"), Text(self.name(id)), Text(duration(now - since)))
        ranks = Table.grid(padding=(0, 2))
        for place, (arm, score) in enumerate(self.ranks[:10], 1):
            ranks.add_row(Text(str(place), style="dim"), Text(arm), Text(score))
        return Group(self.summary(), runs, ranks)
