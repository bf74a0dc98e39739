"""The smallest runs that train: some text, a small specification, quiet settings."""

import random
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import SMALL

from ablate.data.prepare import Prepared, prepare
from ablate.spec import RunSpec
from ablate.train.fit import Run
from ablate.train.request import RunRequest
from ablate.train.settings import Settings
from ablate.train.speed.ensemble import ManualTask
from ablate.train.trainer import quiet_lightning, trainer

CONTEXT, ROWS = SMALL["context"], 8
MOE = {"name": "moe", "experts": 4, "expert": {"name": "glu", "width": 24}}
QUIET = Settings(accelerator="cpu", progress=False)


def write_text(folder: Path) -> Path:
    """300 documents of a few lines, one after another."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(40)]
    file = folder / "text.jsonl"
    lines = [" ".join(draw.choices(words, k=draw.randint(5, 30))) for _ in range(300)]
    file.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return file


def run_spec(file: Path, model: dict[str, Any] | None = None, steps: int = 12, **options: Any) -> RunSpec:
    node: dict[str, Any] = {
        "model": {**SMALL, "vocab": 257, **(model or {})},
        "data": {"source": {"name": "text", "files": [str(file)]}, "tokenizer": "bytes"},
        "optim": "adamw",
        "schedule": "cosine",
        "budget": {"tokens": CONTEXT * ROWS * steps, "batch_tokens": CONTEXT * ROWS},
        "evaluation": {"every": 4, "tokens": 1000},
        "seed": 0,
    }
    return RunSpec.model_validate({**node, **options})


def prepared_for(spec: RunSpec, folder: Path) -> Prepared:
    return prepare(spec.data, folder / "cache")


def run_of(
    spec: RunSpec,
    prepared: Prepared,
    runs: Path,
    settings: Settings = QUIET,
    counts: dict[str, float] | None = None,
) -> Run:
    """A run that is opened and not begun."""
    cache = prepared.folder.parent
    return Run(RunRequest(spec=spec, settings=settings, runs=runs, cache=cache, counts=counts), prepared)


def seats(specs: list[RunSpec], folder: Path) -> list[ManualTask]:
    """Each at its beginning."""
    with quiet_lightning():
        lightning = trainer(specs[0], QUIET, [])
    runs = [run_of(spec, prepared_for(spec, folder), folder, counts={}) for spec in specs]
    return [ManualTask(run.spec, run.stream(), QUIET).built_for(lightning) for run in runs]


def curve(folder: Path) -> pd.DataFrame:
    """Without the times, which differ from run to run."""
    return pd.read_parquet(folder / "curve.parquet").drop(columns="seconds")
