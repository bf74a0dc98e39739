"""Scoring: measures on the stored weights of a finished run, added to its record."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ablate.data.prepare import prepare
from ablate.engine.lease import LeaseLost, take, taken
from ablate.engine.store import Store
from ablate.errors import AblateError
from ablate.measure import beyond, metrics_of, reads_heldout
from ablate.measure.trained import open_run
from ablate.model.hf.opened import is_foreign
from ablate.record import RunRecord, RunSummary
from ablate.registry import measure
from ablate.spec import DataSpec
from ablate.train.monitor.loggers import mirror_scores
from ablate.train.request import RunRequest
from ablate.train.state.source_hash import measure_hash

Value = TypeVar("Value")

LEASE_PATIENCE = 5.0  # seconds that others may take to store their numbers


class MeasureError(AblateError, ValueError):
    """A run that cannot be scored, with the reason."""


def measure_hashes(names: Sequence[str]) -> dict[str, str]:
    """The hash of the sources of each measure, as they are now."""
    return {name: measure_hash(name) for name in names}


def missing(record: RunRecord | RunSummary, now: Mapping[str, str]) -> list[str]:
    """The measures that a record does not have yet, or has from other sources than these; `now` is what
    `measure_hashes` says."""
    return [name for name, hash in now.items() if record.measures.get(name) != hash]


def score(folder: Path, cache: Path, names: Sequence[str]) -> RunRecord:
    """Add what is missing of the named measures. The record's code stays that of the sources that trained it.

    The record is written under the run's lease. Raises MeasureError for a name that is no measure's, for a
    run that is not finished or that another process holds, where the text is no longer that of the run, and
    for numbers that the measure does not say it gives; RunNotLoadable where no weights were kept.
    """
    unknown = [name for name in names if name not in measure]
    if unknown:
        raise MeasureError(f"no measure is called {', '.join(unknown)}; there are {', '.join(measure)}")
    if is_foreign(folder):
        raise MeasureError(
            f"{folder}: is no run; say which run's text it is to be measured on: --like runs/<id>"
        )
    record = RunRecord.load(folder)
    if names and record.status != "finished":
        raise MeasureError(f"{folder}: the run is {record.status}, not finished")
    sources = measure_hashes(names)
    wanted = missing(record, sources)
    if not wanted:
        return record
    _wait(folder)
    prepared = prepare(DataSpec.model_validate(record.spec["data"]), cache)
    if prepared.fingerprint != record.fingerprint:
        raise MeasureError(f"{folder}: the text or the tokenizer is no longer that of the run")
    trained = open_run(folder)
    measured: dict[str, str] = {}
    metrics: dict[str, float] = {}
    vectors: dict[str, list[float]] = {}
    heldout_reads = 0
    for name in wanted:
        found = measure.build(name)(trained, prepared)
        strange = beyond(metrics_of(name), found.metrics) + beyond([f"{name}/*"], found.vectors)
        if strange:
            raise MeasureError(
                f"measure {name}: it gives {', '.join(metrics_of(name))}, and found {', '.join(strange)}"
            )
        metrics |= found.metrics
        vectors |= found.vectors
        heldout_reads += reads_heldout(name)
        measured[name] = sources[name]

    def scored(now: RunRecord) -> RunRecord:
        """With the numbers; another process may have added its own meanwhile."""
        if (now.status, now.weights_hash) != (record.status, record.weights_hash):
            raise MeasureError(f"{folder}: was trained again while it was scored; score it again")
        return now.model_copy(
            update={
                "metrics": {**others(now.metrics, wanted), **metrics},
                "vectors": {**others(now.vectors, wanted), **vectors},
                "measures": {**now.measures, **measured},
                "heldout_reads": now.heldout_reads + heldout_reads,
            }
        )

    return _stored(folder.resolve(), scored)


def _stored(folder: Path, change: Callable[[RunRecord], RunRecord]) -> RunRecord:
    """Change the record under the run's lease. Raises MeasureError where another process holds it."""
    deadline = time.monotonic() + LEASE_PATIENCE
    while (lease := take(folder)) is None:
        _wait(folder, deadline)
    try:
        change(RunRecord.load(folder)).save(lease.outbox)
        return Store(folder.parent).commit(lease)
    except LeaseLost:
        raise MeasureError(f"{folder}: another process has taken the run over; score it again") from None
    finally:
        lease.release()


def _wait(folder: Path, deadline: float | None = None) -> None:
    """Until nobody holds the run: another scoring process does for a moment. Raises MeasureError."""
    deadline = time.monotonic() + LEASE_PATIENCE if deadline is None else deadline
    while taken(folder):
        if time.monotonic() > deadline:
            raise MeasureError(
                f"{folder}: another process holds the run, perhaps to train it again; score it when that ends"
            )
        time.sleep(0.05)


def others(numbers: Mapping[str, Value], measures: Sequence[str]) -> dict[str, Value]:
    """The numbers of a record that none of the measures gave: a measure's numbers begin with its name."""
    return {name: value for name, value in numbers.items() if name.split("/")[0] not in measures}


def after(folder: Path, payload: dict[str, Any]) -> None:
    """What the worker that trained a run does with it then, if its `RunRequest` names measures. Where it
    cannot, the study tries again and says why."""
    request = RunRequest.read(payload)
    if request.measures:
        scored = score(folder, request.cache, request.measures)
        mirror_scores(request.settings.logger, scored, folder)


def score_work(folder: Path, payload: dict[str, Any]) -> str:
    """What a scoring process does with the run of a `RunRequest`, which lies in `folder`: the reason why it
    could not be scored, or nothing."""
    torch.set_num_threads(1)
    request = RunRequest.read(payload)
    try:
        scored = score(folder, request.cache, request.measures)
        mirror_scores(request.settings.logger, scored, folder)
    except (ValueError, OSError) as error:
        return f"{folder}: {error}"
    except Exception as error:  # of one measure on one run: the others are scored all the same
        return f"{folder}: {type(error).__name__}: {error}"
    return ""
