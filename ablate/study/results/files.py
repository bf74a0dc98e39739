"""The results of a study in a few compact files, committed beside its report, from which it is rebuilt.

experiments/NAME/results/study.json         the study, its arms, what differs, the frozen plan
experiments/NAME/results/runs.parquet       one row for each planned run: outcome, metrics, costs, origin
experiments/NAME/results/curves.parquet     loss by step, at most 100 points a run
experiments/NAME/results/documents.parquet  held-out loss by document, where it was stored
experiments/NAME/results/references.parquet published models on the same text, where the study names some
experiments/NAME/results/timings.parquet    where arms were timed: arm, what, round, seconds, and where
experiments/NAME/results/samples.parquet    where samples were asked for: what arms write after a prompt

study.json also holds the SHA-256 of the tables, and of its own content. Files that are not as they were
written are refused. What earlier versions wrote has no hashes.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ablate.errors import AblateError
from ablate.record import atomic, content_hash
from ablate.study.results.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "results"
RESULTS_REMEDY = "restore it, or run the study again: python sweep.py experiment=NAME"
TIMINGS, REFERENCES, SAMPLES = "timings.parquet", "references.parquet", "samples.parquet"
BESIDE_RUNS = (TIMINGS, REFERENCES, SAMPLES)  # tables that are written after the others, where there are any
RUN_COLUMNS = (
    "id", "corpus", "arm", "role", "seed", "rate", "budget", "status", "reason", "source_hash",
    "stale", "kernel", "precision", "device_kind", "heldout_reads", "command",
)  # fmt: skip
DOCUMENT_COLUMNS = ("id", "loss", "tokens")
TIMING_COLUMNS = ("arm", "what", "round", "seconds")
SAMPLE_COLUMNS = ("id", "corpus", "arm", "prompt", "text")
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
    references reference, corpus, model, text, read, parameters, and bits per byte under the names of metrics;
               None where the study names no published model
    samples    id, corpus, arm, prompt, text; None where none were asked for
    """

    manifest: Manifest
    runs: "pd.DataFrame"
    curves: "pd.DataFrame"
    documents: "pd.DataFrame"
    timings: "pd.DataFrame | None" = None
    references: "pd.DataFrame | None" = None
    samples: "pd.DataFrame | None" = None


def write_results(results: Results, folder: Path) -> None:
    """Write the files into `folder/results`, each whole or not at all."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    tables = {f"{name}.parquet": _packed(getattr(results, name)) for name in ("runs", "curves", "documents")}
    for name, content in tables.items():
        with atomic(place / name) as f:
            f.write(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}
    there = [name for name in BESIDE_RUNS if (place / name).is_file()]
    hashes |= {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in there}
    _write_study(place, results.manifest.model_dump(mode="json"), hashes)


def read_results(folder: Path) -> Results:
    """Read what `write_results` wrote, and the timings. Raises FileNotFoundError where there is nothing,
    ValueError for damage."""
    place = folder / FOLDER
    content, hashes = _read_study(place)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(place / "study.json", f"{where}: {first['msg']}") from None
    except AblateError as error:
        raise _damaged(place / "study.json", str(error)) from None
    return Results(
        manifest=manifest,
        runs=_table(place / "runs.parquet", hashes),
        curves=_table(place / "curves.parquet", hashes),
        documents=_table(place / "documents.parquet", hashes),
        timings=_table(place / TIMINGS, hashes) if (place / TIMINGS).is_file() else None,
        references=_table(place / REFERENCES, hashes) if (place / REFERENCES).is_file() else None,
        samples=_table(place / SAMPLES, hashes) if (place / SAMPLES).is_file() else None,
    )


def _write_study(place: Path, content: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    sealed = {**content, "files": dict(hashes)}
    text = json.dumps({**sealed, "hash": content_hash(sealed)}, indent=1)
    with atomic(place / "study.json") as f:
        f.write((text + "\n").encode())


def _read_study(place: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The content of study.json, and the hashes of the tables (None: it was written without). Raises
    FileNotFoundError, ValueError."""
    file = place / "study.json"
    try:
        content = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(file, "it holds no mapping")
    if "hash" not in content and "files" not in content:
        return content, None
    if content.pop("hash", None) != content_hash(content):
        raise _damaged(file, "its hash is not that of the rest: it was damaged or edited")
    return content, content.pop("files")


def _packed(frame: "pd.DataFrame") -> bytes:
    packed: bytes = frame.to_parquet(index=False, compression="zstd")
    return packed


def _table(file: Path, hashes: Mapping[str, str] | None) -> "pd.DataFrame":
    import pandas as pd

    try:
        content = file.read_bytes()
        if hashes is not None and hashlib.sha256(content).hexdigest() != hashes.get(file.name):
            raise ValueError("its hash is not the one in study.json")
        return pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:  # pyarrow's, of a damaged file, are ValueErrors
        raise ValueError(f"{file} is missing or damaged ({error}); {RESULTS_REMEDY}") from None


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(f"{file} is damaged ({reason}); {RESULTS_REMEDY}")


def write_timings(folder: Path, laps: Iterable[Any], origin: Mapping[str, Any]) -> None:
    """Keep the laps (tuples of `COLUMNS`) of the experiment in `folder`, with where they were run. Raises
    FileNotFoundError where there are no results, ValueError where study.json is damaged."""
    import pandas as pd

    where = {name: str(origin[name]) for name in TIMING_ORIGIN} | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
    _write_beside(folder, TIMINGS, pd.DataFrame(list(laps), columns=list(TIMING_COLUMNS)).assign(**where))


def write_references(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep a row for each published model and corpus. Raises as `write_timings`."""
    import pandas as pd

    _write_beside(folder, REFERENCES, pd.DataFrame([dict(row) for row in rows]))


def write_samples(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what arms write: a row of `SAMPLE_COLUMNS` for each. Raises as `write_timings`."""
    import pandas as pd

    _write_beside(folder, SAMPLES, pd.DataFrame([dict(row) for row in rows], columns=list(SAMPLE_COLUMNS)))


def _write_beside(folder: Path, name: str, frame: "pd.DataFrame") -> None:
    place = folder / FOLDER
    content, hashes = _read_study(place)
    packed = _packed(frame)
    with atomic(place / name) as file:
        file.write(packed)
    if hashes is not None:
        _write_study(place, content, {**hashes, name: hashlib.sha256(packed).hexdigest()})
