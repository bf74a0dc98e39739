"""Functions called in a process of their own."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

Given = TypeVar("Given")
Answer = TypeVar("Answer")


def process_pool(number: int) -> ProcessPoolExecutor:
    """A pool of so many processes, each of which ends with the process that started it."""
    return ProcessPoolExecutor(number, get_context("spawn"), initializer=exit_with_parent)


def exit_with_parent() -> None:
    """End this process of a pool when its parent is gone: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_subprocess(
    function: Callable[[Given], Answer], arguments: Iterable[Given], failed: Callable[[str], Answer]
) -> Iterator[Answer]:
    """Call the function on each argument in another process, with which the compiler's state and memory go.
    Where that process is killed, the answer is `failed(reason)`."""
    with process_pool(1) as pool:
        for argument in arguments:
            try:
                yield pool.submit(function, argument).result()
            except BrokenProcessPool:
                yield failed("the process that measured was killed")
