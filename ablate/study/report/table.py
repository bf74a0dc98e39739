"""Tables as text, made from frames by one format a column: HTML, Markdown and LaTeX are made from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ablate.amounts import interval_text, number, probability, short

if TYPE_CHECKING:
    import pandas as pd

FrameRow = Mapping[str, Any]
Places = int | str  # decimals; or the column of the frame that holds them
HALF_PAGE = 72  # characters that fit into half of a page


@dataclass(frozen=True)
class Table:
    """Rows of text below headings. `note` says what must be known to read it; `numeric` are the columns that
    stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: tuple[int, ...] = ()
    folded: bool = False  # shown only when it is asked for
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> a place on the page

    @property
    def broad(self) -> bool:
        """Whether the table needs the whole width of a page."""
        lines = [self.columns, *self.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        return sum(widths) + 2 * len(widths) > HALF_PAGE

    def without(self, *headings: str) -> "Table":
        """The table without these columns and without its note."""
        places = [n for n, heading in enumerate(self.columns) if heading not in headings]
        rows = tuple(tuple(row[n] for n in places) for row in self.rows)
        numeric = tuple(at for at, n in enumerate(places) if n in self.numeric)
        return Table(self.title, tuple(self.columns[n] for n in places), rows, numeric=numeric)


@dataclass(frozen=True)
class Column:
    """One column of text: its heading, and how a cell is written from a row of the frame."""

    heading: str
    write: Callable[[FrameRow], str]
    numeric: bool = True


def table_of(title: str, frame: "pd.DataFrame", columns: Sequence[Column], note: str = "") -> Table:
    """Write each row of a frame as text, one cell for each column."""
    records: list[dict[Any, Any]] = frame.to_dict("records")
    rows = tuple(tuple(column.write(row) for column in columns) for row in records)
    numeric = tuple(n for n, column in enumerate(columns) if column.numeric)
    return Table(title, tuple(column.heading for column in columns), rows, note, numeric)


def absent(value: Any) -> bool:
    """Whether a cell of a frame holds nothing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def label_column(heading: str, name: str | None = None, missing: str = "") -> Column:
    """Text as it stands in column `name` (the heading's own); `missing` where there is none."""
    key = heading if name is None else name
    return Column(heading, lambda row: missing if absent(row[key]) else str(row[key]), numeric=False)


def figure(heading: str, name: str, places: Places, signed: bool = False) -> Column:
    """A number with so many decimals; nothing where it is missing."""
    return Column(heading, lambda row: number(row[name], _places(row, places), signed))


def ends(heading: str, places: Places, signed: bool = True, low: str = "low", high: str = "high") -> Column:
    """An interval in brackets; nothing where an end is missing."""
    return Column(
        heading,
        lambda row: (
            ""
            if absent(row[low]) or absent(row[high])
            else interval_text(row[low], row[high], _places(row, places), signed)
        ),
    )


def whole_column(heading: str, name: str, hide_zero: bool = False) -> Column:
    """A whole number; nothing where it is missing, or 0 that says nothing."""
    return Column(
        heading,
        lambda row: "" if absent(row[name]) or (hide_zero and not row[name]) else str(int(row[name])),
    )


def fraction_of(heading: str, name: str, whole: str) -> Column:
    """So many of so many: 3 of 8."""
    return Column(heading, lambda row: f"{int(row[name])} of {int(row[whole])}")


def chance(heading: str, name: str) -> Column:
    """A p-value."""
    return Column(heading, lambda row: probability(row[name]))


def digits(heading: str, name: str, most: int = 3) -> Column:
    """Significant digits, for numbers of any size."""
    return Column(heading, lambda row: short(row[name], most))


def _places(row: FrameRow, places: Places) -> int:
    return places if isinstance(places, int) else int(row[places])
