"""Ctrl-C, SIGTERM and a closed terminal as a request to stop at the edge of a step, where there is something
whole to keep."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """`with Interrupt() as stop:` sets `stop.signal` at the first signal. A second one is not held up:
    whoever heard signals before hears it. At the end of the block they hear the first one
    too, unless it is the interpreter that does.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def reason(self) -> str:
        return "" if self.signal is None else f"stopped by {signal.Signals(self.signal).name}"

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            heard = {number: signal.getsignal(number) for number in SIGNALS}
            self.before = {n: handler for n, handler in heard.items() if handler is not signal.SIG_IGN}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals (again: Lightning takes SIGTERM when it begins)."""
        for number in self.before:
            signal.signal(number, self.hear)

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.give_back()

    def give_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()
        if self.signal is None or kind is not None:
            return
        handler = self.before[self.signal]
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)
