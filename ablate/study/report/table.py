"""A table as text: what HTML, Markdown and LaTeX are made from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text below headings. `note` says what must be known to read it; `numeric` are the columns that
    stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: tuple[int, ...] = ()
