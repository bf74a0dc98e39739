"""Searches over train.py: Optuna by its sweeper (which wants optuna below 3), Ax by the example."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]
SMALL = ["data=text", "data/tokenizer=bytes", "model.width=16", "model.depth=1", "model.heads=2"]
SMALL += ["model.context=16", "budget.tokens=640", "budget.batch_tokens=64", "trainer=cpu", "keep=none"]


@pytest.mark.slow
def test_optuna_minimises_the_objective_of_train(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (tmp_path / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    words = [f"data.source.files=[{tmp_path / 'a.txt'}]", *SMALL, "hydra/sweeper=optuna"]
    words += ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=1"]
    words += ["optim.lr=tag(log,interval(1e-4,1e-1))"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = [RunRecord.load(path.parent) for path in tmp_path.glob("runs/*/record.json")]
    by_rate = {record.spec["optim"]["lr"]: record.metrics["validation/loss"] for record in records}
    assert len(by_rate) == 3
    found = yaml.safe_load((tmp_path / "runs" / "optimization_results.yaml").read_text())
    best = min(by_rate, key=by_rate.__getitem__)
    assert found["best_params"]["optim.lr"] == pytest.approx(best)
    assert found["best_value"] == pytest.approx(by_rate[best])


@pytest.mark.slow
def test_ax_is_asked_and_told_by_the_example(tmp_path):
    pytest.importorskip("ax.api")
    (tmp_path / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    words = [f"data.source.files=[{tmp_path / 'a.txt'}]", *SMALL]
    fixed = [word for word in words if not word.startswith("model.width")]
    command = [sys.executable, str(ROOT / "docs" / "examples" / "ax_search.py"), "3", *fixed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = [RunRecord.load(path.parent) for path in tmp_path.glob("runs/*/record.json")]
    tried = {(record.spec["optim"]["lr"], record.spec["model"]["width"]) for record in records}
    assert len(tried) == 3
    (best,) = [line for line in done.stdout.splitlines() if line.startswith("best ")]
    assert any(f"'optim.lr': {rate}, 'model.width': {width}" in best for rate, width in tried)
