"""The results of a study in a few compact files, committed beside its report, from which it is rebuilt.

experiments/NAME/results/study.json         the study, its arms, what differs, the frozen plan
experiments/NAME/results/runs.parquet       one row for each planned run: outcome, metrics, costs, origin
experiments/NAME/results/curves.parquet     loss by step, at most 100 points a run
experiments/NAME/results/documents.parquet  held-out loss by document, where it was stored
"""

import json
import logging
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from ablate.engine.store import Store
from ablate.record import RunRecord, atomic, read_lines
from ablate.spec import Strict
from ablate.study.design.differences import Difference
from ablate.study.design.freeze import Amendment, Frozen
from ablate.study.design.plan import Plan, PlannedArm
from ablate.study.design.runs import PlannedRun, typed
from ablate.study.design.study import Study
from ablate.study.design.study import read as read_study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow

log = logging.getLogger(__name__)

FOLDER = "results"
RACE = "race.parquet"  # written by `ablate.study.report.timing`
POINTS = 100  # of a curve
CURVES = 16  # of one arm on one corpus: more seeds make no other picture
DOCUMENTS = "by_document"  # vectors `heldout/by_document`: sums of loss (nats) ...
DOCUMENT_TOKENS = "document_tokens"  # ... and `heldout/document_tokens`: how many tokens each has
RUN_COLUMNS = (
    "id", "corpus", "arm", "role", "seed", "rate", "budget", "status", "reason", "code", "stale", "kernel",
    "precision", "device_kind", "looks", "command",
)  # fmt: skip
CURVE_VALUES = ("step", "tokens", "loss", "validation_loss")
DOCUMENT_COLUMNS = ("id", "loss", "tokens")
ORIGIN = (
    "device",
    "device_kind",
    "devices",
    "replicas",
    "git",
    "ablate",
    "torch",
    "lightning",
    "python",
    "platform",
)

RULES = tuple(
    f"study.{rule}" for rule in ("seeds", "looks", "margin", "alpha", "metric", "better", "variance")
)

Columns = dict[str, "np.ndarray"]


class KeptArm(Strict):
    """An arm on one corpus, as it was planned."""

    name: str
    corpus: str
    overrides: tuple[str, ...]
    factors: dict[str, str]
    differs: tuple[Difference, ...]  # from the baseline
    matched: dict[str, Any] | None  # as ablate.study.match.Matched
    redraw: tuple[str, ...]
    note: str
    parameters: dict[str, float]
    flops_per_token: float
    kv_bytes_per_token: float
    memory_bytes: float


class KeptPlan(Strict):
    """The frozen plan, and how the study as it stands departs from it."""

    hash: str
    date: str
    test_runs: int  # that had ended when it was frozen
    amendments: tuple[Amendment, ...]
    exploratory: tuple[str, ...]
    judged_before: int = 0  # versions with other seeds or looks that came after test runs had ended

    @property
    def moved_rules(self) -> tuple[str, ...]:
        """The amendments of what verdicts are read by."""
        return tuple(str(change) for change in self.amendments if change.path in RULES)


class Kept(Strict):
    """What study.json holds. `spec` is the baseline's on the first corpus, without its seed."""

    name: str
    study: dict[str, Any]  # as study.yaml would say it
    baseline: str
    placebo: str | None
    arms: tuple[KeptArm, ...]
    spec: dict[str, Any]
    plan: KeptPlan | None
    notes: tuple[str, ...]  # warnings of the plan, arms that had no rate of their own
    reference: dict[str, dict[str, float]] = Field({})  # by corpus: n-gram losses on validation

    def said(self) -> Study:
        return read_study(self.study)

    def on(self, corpus: str) -> tuple[KeptArm, ...]:
        return tuple(arm for arm in self.arms if arm.corpus == corpus)


@dataclass(frozen=True)
class Results:
    """All that a report is made from.

    runs       one row for each planned run, in the plan's order (see RUN_COLUMNS); beside these the metrics
               under their names, `counts/...`, `speed/...`, `memory/...`, `origin/...`, `fingerprint/...`;
               of tuning runs `curve/first_loss` too
    curves     id, code, step, tokens, loss, validation_loss
    documents  id, loss (sum over each document, nats), tokens
    race       arm, what, round, seconds, and where; None where arms were not timed
    """

    kept: Kept
    runs: "pd.DataFrame"
    curves: "pd.DataFrame"
    documents: "pd.DataFrame"
    race: "pd.DataFrame | None" = None


def collect(
    plan: Plan,
    runs: Sequence[PlannedRun],
    store: Store,
    *,
    name: str,
    frozen: Frozen | None = None,
    amendments: Sequence[Amendment] = (),
    notes: Sequence[str] = (),
    code: Callable[[PlannedRun], str] | None = None,
) -> Results:
    """Gather what the store knows of these runs.

    `name` is the experiment's. `amendments` are those of `ablate.study.design.freeze`. `code` gives the
    hash of the sources as they are now: a record from others is marked stale.
    """
    import pandas as pd

    found = _Found(store)
    commands = _Commands(plan)
    rows = [
        {
            **_place(run),
            **_row(found(run.id), code(run) if code else ""),
            **_start(run, found, store),
            "command": commands(run, found(run.id)),
        }
        for run in runs
    ]
    frame = pd.DataFrame(rows)
    for column in RUN_COLUMNS:
        if column not in frame.columns:
            frame[column] = None
    rest = sorted(column for column in frame.columns if column not in RUN_COLUMNS)
    return Results(
        kept=_kept(plan, name, frozen, amendments, notes),
        runs=frame[[*RUN_COLUMNS, *rest]].astype({"rate": float, "budget": float}),
        curves=_curves(frame, store),
        documents=_documents(runs, found, plan.study.metric),
    )


def write(results: Results, folder: Path) -> None:
    """Write the files into `folder/results`, each whole or not at all."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for name in ("runs", "curves", "documents"):
        with atomic(place / f"{name}.parquet") as f:
            f.write(getattr(results, name).to_parquet(index=False, compression="zstd"))
    with atomic(place / "study.json") as f:
        f.write((json.dumps(results.kept.model_dump(mode="json"), indent=1) + "\n").encode())


def read(folder: Path) -> Results:
    """Read what `write` wrote, and the race. Raises FileNotFoundError where there is nothing, ValueError for
    damage."""
    place = folder / FOLDER
    race = place / RACE
    try:
        kept = Kept.model_validate_json((place / "study.json").read_bytes())
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(f"{place / 'study.json'} is damaged ({said}); run the study again") from None
    return Results(
        kept=kept,
        runs=_table(place / "runs.parquet"),
        curves=_table(place / "curves.parquet"),
        documents=_table(place / "documents.parquet"),
        race=_table(race) if race.is_file() else None,
    )


def _table(file: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(file)
    except (FileNotFoundError, ValueError) as error:  # pyarrow's, of a damaged file, are ValueErrors
        raise ValueError(f"{file} is missing or damaged ({error}); run the study again") from None


class _Found:
    """Records by id, each read once: a test run may be a fixed run too."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records: dict[str, RunRecord | None] = {}

    def __call__(self, id: str) -> RunRecord | None:
        if id not in self.records:
            self.records[id] = self.store.find(id)
        return self.records[id]


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
        return {"status": None, "reason": "", "code": "", "stale": False, "kernel": "", "looks": 0}
    row = record.columns()
    row |= {f"fingerprint/{name}": value for name, value in record.fingerprint.items()}
    row |= {f"origin/{name}": _text(record.provenance.get(name)) for name in ORIGIN}
    row |= {f"origin/{name}": _text(record.provenance.get(name)) for name in ("began", "ended")}
    row["looks"] = record.looks
    row["stale"] = bool(now) and record.code != now
    row["precision"] = record.spec.get("precision")
    row["device_kind"] = row.pop("origin/device_kind")
    return row


def _start(run: PlannedRun, found: _Found, store: Store) -> dict[str, float]:
    """`curve/first_loss` of a tuning run: the loss of its first step, taken before any update. Nothing where
    that step was not logged, was no number, or began from weights that were trained."""
    record = found(run.id)
    if run.role != "tuning" or record is None or record.spec.get("parent") is not None:
        return {}
    first = next(iter(_rows(store.folder(run.id), ["step", "loss"]).slice(0, 1).to_pylist()), None)
    if first is None or first["step"] != 1 or first["loss"] is None or not math.isfinite(first["loss"]):
        return {}
    return {"curve/first_loss": float(first["loss"])}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _kept(
    plan: Plan,
    name: str,
    frozen: Frozen | None,
    amendments: Sequence[Amendment],
    notes: Sequence[str],
) -> Kept:
    study = plan.study
    names = [*dict.fromkeys(arm.name for arm in plan.arms), study.metric, *study.measures]
    names += [claim.id for claim in study.claims]
    spec = {key: value for key, value in plan.arms[0].spec.items() if key != "seed"}
    return Kept(
        name=name,
        study=say(study),
        baseline=plan.baseline,
        placebo=plan.placebo,
        arms=tuple(_kept_arm(arm) for arm in plan.arms),
        spec=json.loads(json.dumps(spec)),
        plan=None
        if frozen is None
        else KeptPlan(
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


def _kept_arm(arm: PlannedArm) -> KeptArm:
    return KeptArm(
        name=arm.name,
        corpus=arm.corpus,
        overrides=arm.overrides,
        factors=dict(arm.factors),
        differs=arm.differs,
        matched=asdict(arm.matched) if arm.matched else None,
        redraw=arm.redraw,
        note=arm.note,
        parameters=dict(arm.facts.parameters),
        flops_per_token=arm.facts.flops_per_token,
        kv_bytes_per_token=arm.facts.kv_bytes_per_token,
        memory_bytes=arm.facts.memory_bytes,
    )


def say(study: Study) -> dict[str, Any]:
    """The study as study.yaml would say it, every field written out; `design.study.read` reads it."""
    said: dict[str, Any] = study.model_dump(mode="json", by_alias=True)
    tune = said.pop("tune")
    said["tune"] = "fixed" if tune is None else {tune.pop("path"): tune.pop("rates"), **tune}
    return said


def _curves(frame: "pd.DataFrame", store: Store) -> "pd.DataFrame":
    """The curves of the test runs that have one, of the first `CURVES` seeds of each arm."""
    import numpy as np
    import pandas as pd

    ended = frame[(frame["role"] == "test") & frame["status"].isin(["finished", "diverged"])]
    wanted = ended.groupby(["corpus", "arm"], sort=False).head(CURVES)
    found: list[tuple[str, str, Columns]] = []
    for id, code in dict.fromkeys(zip(wanted["id"], wanted["code"], strict=True)):
        curve = _curve(store.folder(id))
        if curve:
            found.append((id, code, curve))
    lengths = [len(curve["step"]) for *_, curve in found]
    table: dict[str, Any] = {
        "id": np.repeat([id for id, *_ in found], lengths),
        "code": np.repeat([code for _, code, _ in found], lengths),
    }
    for name in CURVE_VALUES:
        table[name] = np.concatenate([curve[name] for *_, curve in found]) if found else np.zeros(0)
    return pd.DataFrame(table).astype({"id": str, "code": str})


def _curve(folder: Path) -> Columns:
    """At most `POINTS` rows: the loss averaged between them, the last of everything else. Empty where there
    is no curve."""
    import numpy as np

    table = _rows(folder, CURVE_VALUES)
    if not table.num_rows:
        return {}
    whole = {name: table[name].to_numpy().astype(float) for name in CURVE_VALUES}
    if table.num_rows <= POINTS:
        return whole
    ends = np.arange(1, POINTS + 1) * table.num_rows // POINTS
    starts = np.concatenate([[0], ends[:-1]])
    last = {name: whole[name][ends - 1] for name in ("step", "tokens", "validation_loss")}
    return {**last, "loss": np.add.reduceat(whole["loss"], starts) / (ends - starts)}


def _rows(folder: Path, columns: Sequence[str]) -> "pyarrow.Table":
    """The curve of a run: none where it has none, or one that is damaged, which is said. A run that diverged
    left its rows as lines of JSON."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.float64()) for name in columns])
    try:
        return pyarrow.parquet.read_table(folder / "curve.parquet", columns=list(columns))
    except (FileNotFoundError, NotADirectoryError):
        return pyarrow.Table.from_pylist(list(read_lines(folder / "curve.jsonl")), schema=schema)
    except (OSError, pyarrow.ArrowException) as error:
        log.warning("%s is damaged and left out: %s", folder / "curve.parquet", error)
        return schema.empty_table()


def _documents(runs: Sequence[PlannedRun], found: _Found, metric: str) -> "pd.DataFrame":
    """The loss by document of the test runs, where the metric is a loss and the records hold it."""
    import pandas as pd

    split, _, what = metric.rpartition("/")
    rows = []
    for id in dict.fromkeys(run.id for run in runs if run.role == "test"):
        record = found(id)
        if record is None or record.status != "finished" or what != "loss":
            continue
        loss = record.vectors.get(f"{split}/{DOCUMENTS}")
        tokens = record.vectors.get(f"{split}/{DOCUMENT_TOKENS}")
        if loss is not None and tokens is not None:
            rows.append({"id": id, "loss": loss, "tokens": tokens})
    return pd.DataFrame(rows, columns=list(DOCUMENT_COLUMNS))


TIMING_COLUMNS = ("arm", "what", "round", "seconds")


TIMING_ORIGIN = ("device_kind", "torch", "git")


def write_timings(folder: Path, laps: Iterable[Any], origin: Mapping[str, Any]) -> None:
    """Keep the laps (tuples of `COLUMNS`) of the experiment in `folder`, with where they were run."""
    import pandas as pd

    said = {name: str(origin[name]) for name in TIMING_ORIGIN} | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
    frame = pd.DataFrame(list(laps), columns=list(TIMING_COLUMNS)).assign(**said)
    with atomic(folder / FOLDER / RACE) as file:
        file.write(frame.to_parquet(index=False, compression="zstd"))
