"""Results from the records of a study's runs."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ablate.engine.store import Store
from ablate.record import RunRecord
from ablate.study.design.freeze import Amendment, Frozen
from ablate.study.design.planned import Plan
from ablate.study.design.runs import PlannedRun, typed
from ablate.study.results.curves import collect_curves, curve_rows
from ablate.study.results.files import DOCUMENT_COLUMNS, RUN_COLUMNS, Results
from ablate.study.results.manifest import Manifest, PlanRecord, without_model
from ablate.study.stats.frame import frame_of

if TYPE_CHECKING:
    import pandas as pd

DOCUMENTS = "by_document"  # vectors `heldout/by_document`: sums of loss (nats) ...
DOCUMENT_TOKENS = "document_tokens"  # ... and `heldout/document_tokens`: how many tokens each has
ORIGIN = (
    "device", "device_kind", "devices", "replicas", "git", "ablate", "torch", "lightning", "python",
    "platform",
)  # fmt: skip


def collect(
    plan: Plan,
    runs: Sequence[PlannedRun],
    store: Store,
    *,
    name: str,
    frozen: Frozen | None = None,
    amendments: Sequence[Amendment] = (),
    notes: Sequence[str] = (),
    source_hash: Callable[[PlannedRun], str] | None = None,
) -> Results:
    """Gather what the store knows of these runs.

    `name` is the experiment's. `amendments` are those of `ablate.study.design.freeze`. `code` gives the
    hash of the sources as they are now: a record from others is marked stale.
    """
    records, commands = _Records(store, runs), _Commands(plan)
    documents = _Documents(plan.study.metric)

    def rows() -> Iterator[dict[str, Any]]:
        for run in runs:
            record = records(run.id)
            documents.add(run, record)
            yield {
                **_place(run),
                **_row(record, source_hash(run) if source_hash else ""),
                **_start(run, record, store),
                "command": commands(run, record),
            }

    frame = frame_of(rows())
    for column in RUN_COLUMNS:
        if column not in frame.columns:
            frame[column] = None
    rest = sorted(column for column in frame.columns if column not in RUN_COLUMNS)
    return Results(
        manifest=_manifest(plan, name, frozen, amendments, notes),
        runs=frame[[*RUN_COLUMNS, *rest]].astype({"rate": float, "budget": float}),
        curves=collect_curves(frame, store, store.find),
        documents=documents.frame(),
    )


class _Records:
    """Records by id, each read once and kept until its last run: a test run may be a fixed run too."""

    def __init__(self, store: Store, runs: Sequence[PlannedRun]) -> None:
        self.store = store
        self.left = Counter(run.id for run in runs)
        self.kept: dict[str, RunRecord | None] = {}

    def __call__(self, id: str) -> RunRecord | None:
        record = self.kept.pop(id) if id in self.kept else self.store.find(id)
        self.left[id] -= 1
        if self.left[id]:
            self.kept[id] = record
        return record


class _Commands:
    """What a person types to get a run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, run: PlannedRun, record: RunRecord | None) -> str:
        settings = {} if record is None else record.provenance.get("settings", {})
        how = ["trainer.compile=true"] if settings.get("compile") else []
        return shlex.join(["python", "train.py", *typed(self.plan, run), *how])


def _place(run: PlannedRun) -> dict[str, Any]:
    named = {name: getattr(run, name) for name in ("id", "corpus", "arm", "role", "seed", "rate")}
    return {**named, "budget": run.budget if run.role == "budget" else None}


def _row(record: RunRecord | None, now: str) -> dict[str, Any]:
    if record is None:
        return {
            "status": None,
            "reason": "",
            "source_hash": "",
            "stale": False,
            "kernel": "",
            "heldout_reads": 0,
        }
    row = record.columns()
    row |= {f"fingerprint/{name}": value for name, value in record.fingerprint.items()}
    row |= {f"origin/{name}": _text(record.provenance.get(name)) for name in ORIGIN}
    row |= {f"origin/{name}": _text(record.provenance.get(name)) for name in ("began", "ended")}
    row["heldout_reads"] = record.heldout_reads
    row["stale"] = bool(now) and record.source_hash != now
    row["precision"] = record.spec.get("precision")
    row["device_kind"] = row.pop("origin/device_kind")
    return row


def _start(run: PlannedRun, record: RunRecord | None, store: Store) -> dict[str, float]:
    """`curve/first_loss` of a tuning run: the loss of its first step, taken before any update. Nothing where
    that step was not logged, was no number, or began from weights that were trained."""
    if run.role != "tuning" or record is None or record.spec.get("parent") is not None:
        return {}
    first = next(
        iter(curve_rows(store.folder(run.id), record, ["step", "loss"]).slice(0, 1).to_pylist()), None
    )
    if first is None or first["step"] != 1 or first["loss"] is None or not math.isfinite(first["loss"]):
        return {}
    return {"curve/first_loss": float(first["loss"])}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _manifest(
    plan: Plan,
    name: str,
    frozen: Frozen | None,
    amendments: Sequence[Amendment],
    notes: Sequence[str],
) -> Manifest:
    study = plan.study
    names = [*dict.fromkeys(arm.name for arm in plan.arms), study.metric, *study.measures]
    names += [claim.id for claim in study.claims]
    spec = {key: value for key, value in plan.arms[0].spec.items() if key != "seed"}
    return Manifest(
        name=name,
        study=study,
        baseline=plan.baseline,
        placebo=plan.placebo,
        arms=tuple(without_model(arm) for arm in plan.arms),
        spec=json.loads(json.dumps(spec)),
        plan=None
        if frozen is None
        else PlanRecord(
            hash=frozen.first.hash,
            date=frozen.first.date,
            test_runs=frozen.first.test_runs,
            amendments=tuple(amendments),
            exploratory=frozen.exploratory(names),
            judged_before=frozen.judged_before,
        ),
        notes=tuple(dict.fromkeys([*plan.warnings, *notes])),
        reference={corpus: dict(plan.on(corpus)[0].facts.reference) for corpus in plan.corpora},
    )


class _Documents:
    """The loss by document of the test runs, where the metric is a loss and the records hold it."""

    def __init__(self, metric: str) -> None:
        self.split, _, self.what = metric.rpartition("/")
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, run: PlannedRun, record: RunRecord | None) -> None:
        import numpy as np

        if record is None or (run.role, record.status, self.what) != ("test", "finished", "loss"):
            return
        loss = record.vectors.get(f"{self.split}/{DOCUMENTS}")
        tokens = record.vectors.get(f"{self.split}/{DOCUMENT_TOKENS}")
        if loss is not None and tokens is not None:
            self.rows[run.id] = {"id": run.id, "loss": np.array(loss), "tokens": np.array(tokens)}

    def frame(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(list(self.rows.values()), columns=list(DOCUMENT_COLUMNS))
