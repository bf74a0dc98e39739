"""The curve of a run while it grows, and what its record says of speed, memory and origin."""

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ablate.record import atomic, read_lines

_COLUMNS = {
    "step": "int64",
    "tokens": "int64",
    "loss": "float64",
    "lr": "float64",
    "grad_norm": "float64",
    "validation_loss": "float64",
    "seconds": "float64",
}
_SOME = {"auxiliary_loss": "float64"}  # columns of models that add to the loss
CurveRow = dict[str, float | int | None]  # by column


class Curve:
    """Rows by step. They grow in `curve.jsonl`, flushed row by row, so that a hard kill loses the last at
    most, and synced with each checkpoint, so that a power cut loses none that is not made again;
    `curve.parquet` is written whole at the end. A resumed run drops the rows it will make again."""

    def __init__(self, folder: Path, done: int = 0, extra: Sequence[str] = ()):
        """`done` steps lie before the checkpoint that the run goes on from; `extra` columns are numbers."""
        self.folder = folder
        self.columns = _COLUMNS | dict.fromkeys(extra, "float64")
        whole = takewhile(
            lambda row: self.columns.keys() <= row.keys() <= {*self.columns, *_SOME},
            read_lines(folder / "curve.jsonl"),
        )
        self.rows: list[CurveRow] = [row for row in whole if (row["step"] or 0) <= done]
        with atomic(folder / "curve.jsonl") as f:
            f.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self.file = (folder / "curve.jsonl").open("a", buffering=1)

    @property
    def end(self) -> int:
        """The step of the last row."""
        return int(self.rows[-1]["step"] or 0) if self.rows else 0

    def add(self, row: CurveRow) -> None:
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def finish(self, place: Path) -> str:
        """Write `curve.parquet` into a folder. Returns its SHA-256, for the record."""
        import pandas as pd

        self.close()
        added = {name: kind for name, kind in _SOME.items() if any(name in row for row in self.rows)}
        columns = self.columns | added
        frame = pd.DataFrame(self.rows, columns=list(columns)).astype(columns)
        place.mkdir(parents=True, exist_ok=True)
        with atomic(place / "curve.parquet") as f:
            content = frame.to_parquet(index=False)
            f.write(content)
        (self.folder / "curve.jsonl").unlink()
        return hashlib.sha256(content).hexdigest()
