"""Training curves as results keep them: a hundred points each, of the first seeds of every arm."""

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.engine.store import Store
from ablate.record import RunRecord, read_curve, read_lines

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow

log = logging.getLogger(__name__)

POINTS = 100  # of a curve
CURVES = 16  # of one arm on one corpus: more seeds make no other picture
CURVE_VALUES = ("step", "tokens", "loss", "validation_loss")

Columns = dict[str, "np.ndarray"]


def collect_curves(
    frame: "pd.DataFrame", store: Store, records: Callable[[str], RunRecord | None]
) -> "pd.DataFrame":
    """The curves of the test runs that have one, of the first `CURVES` seeds of each arm."""
    import numpy as np
    import pandas as pd

    ended = frame[(frame["role"] == "test") & frame["status"].isin(["finished", "diverged"])]
    wanted = ended.groupby(["corpus", "arm"], sort=False).head(CURVES)
    curves: list[tuple[str, str, Columns]] = []
    for id, source_hash in dict.fromkeys(zip(wanted["id"], wanted["source_hash"], strict=True)):
        curve = _curve(store.folder(id), records(id))
        if curve:
            curves.append((id, source_hash, curve))
    lengths = [len(curve["step"]) for *_, curve in curves]
    table: dict[str, Any] = {
        "id": np.repeat([id for id, *_ in curves], lengths),
        "source_hash": np.repeat([source_hash for _, source_hash, _ in curves], lengths),
    }
    for name in CURVE_VALUES:
        table[name] = np.concatenate([curve[name] for *_, curve in curves]) if curves else np.zeros(0)
    return pd.DataFrame(table).astype({"id": str, "source_hash": str})


def _curve(folder: Path, record: RunRecord | None) -> Columns:
    """At most `POINTS` rows: the loss averaged between them, the last of everything else. Empty where there
    is no curve."""
    import numpy as np

    table = curve_rows(folder, record, CURVE_VALUES)
    if not table.num_rows:
        return {}
    whole = {name: table[name].to_numpy().astype(float) for name in CURVE_VALUES}
    if table.num_rows <= POINTS:
        return whole
    ends = np.arange(1, POINTS + 1) * table.num_rows // POINTS
    starts = np.concatenate([[0], ends[:-1]])
    last = {name: whole[name][ends - 1] for name in ("step", "tokens", "validation_loss")}
    return {**last, "loss": np.add.reduceat(whole["loss"], starts) / (ends - starts)}


def curve_rows(folder: Path, record: RunRecord | None, columns: Sequence[str]) -> "pyarrow.Table":
    """The curve of a run: none where it has none, or one that is damaged, which is said. A run that diverged
    left its rows as lines of JSON."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.float64()) for name in columns])
    try:
        content = read_curve(folder, record.curve_hash if record else "")
        return pyarrow.parquet.read_table(io.BytesIO(content), columns=list(columns))
    except (FileNotFoundError, NotADirectoryError):
        return pyarrow.Table.from_pylist(list(read_lines(folder / "curve.jsonl")), schema=schema)
    except (OSError, pyarrow.ArrowException) as error:
        log.warning("%s is damaged and left out: %s", folder / "curve.parquet", error)
        return schema.empty_table()
