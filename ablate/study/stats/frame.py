"""Frames from rows that come one by one: only the columns are kept, never all the rows."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def frame_of(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A frame of the rows, its columns in the order in which they are first named; NaN where a row has no
    such column."""
    import pandas as pd

    columns: dict[str, list[Any]] = {}
    for before, row in enumerate(rows):
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = [float("nan")] * before
            column.append(value)
        for column in columns.values():
            if len(column) == before:
                column.append(float("nan"))
    return pd.DataFrame(columns)
