"""Whole studies without training: plans from the stand-ins of `study_fakes`, records made by formula."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from study_fakes import RATES, Fake, identify, study

from ablate.engine.store import Store
from ablate.record import RunRecord
from ablate.study.design.plan import plan
from ablate.study.design.planned import Plan
from ablate.study.design.runs import PlannedRun, judged_runs, stages, tidy
from ablate.study.results import Results, collect, write_results

EFFECTS = {"rope": 0.0, "alibi": -0.05, "none": 0.09, "placebo": 0.0, "learned": 0.004}
Outcome = Callable[[PlannedRun], dict[str, Any] | None]


def seeded(*words: object) -> np.random.Generator:
    return np.random.default_rng([sum(str(word).encode()) for word in words])


def loss(run: PlannedRun, sd: float = 0.01) -> float:
    """The baseline near 3, each arm at its effect, noise of seed and run; 1e-3 is the best rate."""
    level = 3 + EFFECTS.get(run.arm, 0.02 * (len(run.arm) % 5)) + seeded("seed", run.seed).normal(0, 0.01)
    rate = 0.0 if run.rate is None else 0.2 * np.log10(run.rate / 1e-3) ** 2
    return float(level + rate + seeded(run.arm, run.seed, run.role, run.corpus).normal(0, sd))


def finished(run: PlannedRun) -> dict[str, Any]:
    return {"status": "finished", "value": loss(run)}


def save(store: Store, run: PlannedRun, said: dict[str, Any]) -> None:
    """A record as training writes it, and its curve."""
    value = said.get("value")
    rng = seeded("documents", run.arm, run.seed)
    tokens = np.arange(40, 60)
    scored = {} if value is None else {"validation/loss": value + 0.01, "heldout/loss": value}
    scored |= said.get("metrics", {})
    by_document = [] if value is None else (tokens * (value + rng.normal(0, 0.02, len(tokens)))).tolist()
    RunRecord(
        id=run.id,
        status=said["status"],
        reason=said.get("reason", ""),
        source_hash=said.get("source_hash", "c0de"),
        spec={**run.spec, "precision": said.get("precision", "fp32")},
        fingerprint={"text": "t" * 12, "tokenizer": "bytes"},
        metrics=scored,
        vectors={"heldout/by_document": by_document, "heldout/document_tokens": tokens.astype(float).tolist()}
        if by_document
        else {},
        speed={"tokens_per_second": 20_000 + 900 * len(run.arm), "seconds": 12.5},
        memory={"peak_resident_bytes": 3e8 + 1e6 * len(run.arm)},
        kernel=said.get("kernel", "sdpa"),
        heldout_reads=1 if scored else 0,
        provenance={
            "torch": "2.11.0", "python": "3.11.2", "lightning": "2.6.1", "ablate": "0.1.0", "git": "0123abcd",
            "device": "cpu", "device_kind": said.get("device_kind", "a processor"), "devices": 1,
            "platform": "Linux", "began": f"2026-01-01T00:00:{run.seed % 60:02}+00:00",
            "ended": f"2026-01-01T01:00:{run.seed % 60:02}+00:00",
            "settings": {"compile": said.get("compile", False)},
        },
    ).save(store.folder(run.id))  # fmt: skip
    if said["status"] == "finished" and run.role == "test":
        curve(said["value"], run).to_parquet(store.folder(run.id) / "curve.parquet", index=False)

    if run.role == "tuning" and "began" in said:
        began(said["began"], run, store, said["status"])


def began(first: float, run: PlannedRun, store: Store, status: str) -> None:
    """The beginning of a tuning run's curve, as a run that finished or diverged leaves it."""
    rows = [{"step": n, "tokens": n * 80, "loss": first - n + 1, "validation_loss": None} for n in (1, 2)]
    if status == "finished":
        pd.DataFrame(rows).to_parquet(store.folder(run.id) / "curve.parquet", index=False)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (store.folder(run.id) / "curve.jsonl").write_text(text)


def curve(end: float, run: PlannedRun, points: int = 250) -> pd.DataFrame:
    steps = np.arange(1, points + 1)
    noise = seeded("curve", run.arm, run.seed).normal(0, 0.02, points)
    return pd.DataFrame(
        {
            "step": steps,
            "tokens": steps * 1200,
            "loss": end + 2.6 * np.exp(-steps / 25) + 0.25 * (1 - steps / points) + noise,
            "lr": 1e-3,
            "grad_norm": 1.0,
            "validation_loss": np.where(steps % 50 == 0, end + 0.01, np.nan),
            "seconds": 0.05,
        }
    )


def planned(**changes: Any) -> Plan:
    fake = Fake()
    return plan(study(**changes), fake)


def world(
    folder: Path, outcome: Outcome = finished, also: dict[str, Any] | None = None, **changes: Any
) -> Results:
    """Run a study in name only, and write its results into `folder`. `also` goes to `collect`."""
    made = planned(**{"placebo": True, "equivalence_margin": 0.02, **changes})
    store = Store(folder / "runs")
    called: list[PlannedRun] = []
    for stage in stages(made, Fake(lambda runs: tidy(runs, store.find))):
        for run in stage.runs:
            said = outcome(run)
            if said is not None:
                save(store, run, said)
        called += stage.runs
    results = collect(made, called, store, name=folder.name, **(also or {}))
    write_results(results, folder)
    return results


def tests(made: Plan) -> list[PlannedRun]:
    return [run for run in judged_runs(made, identify)[0] if run.role == "test"]


TUNED = {"tune": {"optim.lr": RATES, "fixed_rate_table": True}}
