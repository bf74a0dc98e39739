"""The results of a study in a few compact files, committed beside its report, from which it is rebuilt.

experiments/NAME/results/study.json         the study, its arms, what differs, the frozen plan
experiments/NAME/results/runs.parquet       one row for each planned run: outcome, metrics, costs, origin
experiments/NAME/results/curves.parquet     loss by step, at most 100 points a run
experiments/NAME/results/documents.parquet  held-out loss by document, where it was stored
experiments/NAME/results/timings.parquet       where arms were timed: arm, what, round, seconds, and where
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ablate.record import atomic
from ablate.study.results.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "results"
TIMINGS = "timings.parquet"
RUN_COLUMNS = (
    "id", "corpus", "arm", "role", "seed", "rate", "budget", "status", "reason", "source_hash",
    "stale", "kernel", "precision", "device_kind", "heldout_reads", "command",
)  # fmt: skip
DOCUMENT_COLUMNS = ("id", "loss", "tokens")
TIMING_COLUMNS = ("arm", "what", "round", "seconds")
TIMING_ORIGIN = ("device_kind", "torch", "git")


@dataclass(frozen=True)
class Results:
    """All that a report is made from.

    runs       one row for each planned run, in the plan's order (see RUN_COLUMNS); beside these the metrics
               under their names, `counts/...`, `speed/...`, `memory/...`, `origin/...`, `fingerprint/...`;
               of tuning runs `curve/first_loss` too
    curves     id, code, step, tokens, loss, validation_loss
    documents  id, loss (sum over each document, nats), tokens
    timings    arm, what, round, seconds, and where; None where arms were not timed
    """

    manifest: Manifest
    runs: "pd.DataFrame"
    curves: "pd.DataFrame"
    documents: "pd.DataFrame"
    timings: "pd.DataFrame | None" = None


def write(results: Results, folder: Path) -> None:
    """Write the files into `folder/results`, each whole or not at all."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for name in ("runs", "curves", "documents"):
        with atomic(place / f"{name}.parquet") as f:
            f.write(getattr(results, name).to_parquet(index=False, compression="zstd"))
    with atomic(place / "study.json") as f:
        f.write((json.dumps(results.manifest.model_dump(mode="json"), indent=1) + "\n").encode())


def read(folder: Path) -> Results:
    """Read what `write` wrote, and the timings. Raises FileNotFoundError where there is nothing, ValueError
    for damage."""
    place = folder / FOLDER
    timings = place / TIMINGS
    try:
        manifest = Manifest.model_validate_json((place / "study.json").read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"{place / 'study.json'} is damaged ({reason}); run the study again") from None
    return Results(
        manifest=manifest,
        runs=_table(place / "runs.parquet"),
        curves=_table(place / "curves.parquet"),
        documents=_table(place / "documents.parquet"),
        timings=_table(timings) if timings.is_file() else None,
    )


def _table(file: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(file)
    except (FileNotFoundError, ValueError) as error:  # pyarrow's, of a damaged file, are ValueErrors
        raise ValueError(f"{file} is missing or damaged ({error}); run the study again") from None


def write_timings(folder: Path, laps: Iterable[Any], origin: Mapping[str, Any]) -> None:
    """Keep the laps (tuples of `COLUMNS`) of the experiment in `folder`, with where they were run."""
    import pandas as pd

    where = {name: str(origin[name]) for name in TIMING_ORIGIN} | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
    frame = pd.DataFrame(list(laps), columns=list(TIMING_COLUMNS)).assign(**where)
    with atomic(folder / FOLDER / TIMINGS) as file:
        file.write(frame.to_parquet(index=False, compression="zstd"))
