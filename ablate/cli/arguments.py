"""Types of command-line options, with mistakes in one line."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from ablate.errors import printable


class Parser(argparse.ArgumentParser):
    """One that repeats no control characters of what was typed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def integer_within(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low} to {high}")
        return int(text)

    return read


def some_text(text: str) -> str:
    """The type of an option that takes text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text stops at once; give at least one character")
    return text
