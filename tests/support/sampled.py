"""A walk over many cases in two parts: a sample in the default tests, the rest in the slow ones."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def sampled(
    names: Iterable[str], every: int, always: Sequence[str] = (), marks: dict[str, Any] | None = None
) -> list[Any]:
    """Parameters by name. One in so many is in the default tests, and those of `always`; all others are slow.

    `marks` holds further marks by name.
    """
    marks = marks or {}
    return [
        pytest.param(
            name,
            id=name,
            marks=[
                *([pytest.mark.slow] if n % every and name not in always else []),
                *([marks[name]] if name in marks else []),
            ],
        )
        for n, name in enumerate(names)
    ]
