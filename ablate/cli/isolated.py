"""Functions called in a process of their own."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


def processes(number: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(number, get_context("spawn"), initializer=follow)


def follow() -> None:
    """End this process of a pool when the one that started it is gone: it would wait for work for ever."""
    starter = parent_process()
    assert starter is not None

    def watch() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def apart(
    measure: Callable[[Given], Found], given: Iterable[Given], failed: Callable[[str], Found]
) -> Iterator[Found]:
    """Measured in a process of its own, which the compiler's state and memory leave with."""
    with processes(1) as pool:
        for each in given:
            try:
                yield pool.submit(measure, each).result()
            except BrokenProcessPool:
                yield failed("the process that measured was killed")
