"""`-m hydra/launcher=slots`: a Hydra multirun on the engine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ablate.engine.store import Store
from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]

APP = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    print("the task function was called")
if __name__ == "__main__":
    main()
"""


def prepare(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    if config["seed"] < 0:
        raise ValueError(f"seed: must not be negative (got {config['seed']})")
    return {"id": f"seed{config['seed']}{config['way']}", "source_hash": "c", "spec": config}


def work(payload: dict[str, Any]) -> None:
    config = payload["config"]
    if config["way"]:
        raise ArithmeticError("as asked")
    record = RunRecord(
        id=f"seed{config['seed']}",
        status="finished",
        source_hash="c",
        spec=config,
        fingerprint={},
        provenance={"overrides": payload["overrides"]},
    )
    record.save(Path(payload["outbox"]))


def multirun(folder: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    (folder / "conf").mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP)
    (folder / "conf" / "app.yaml").write_text("seed: 0\nway: ''\ndouble: ${seed}\nname: ${hydra:job.name}\n")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "engine"), os.environ.get("PYTHONPATH", "")])
    launcher = ["hydra/launcher=slots", "hydra.launcher.slots=2", "hydra.launcher.retries=0"]
    functions = [f"hydra.launcher.{f}=test_launch_hydra:{f}" for f in ("work", "prepare")]
    return subprocess.run(
        [sys.executable, "app.py", "-m", *launcher, *functions, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_a_multirun_becomes_records_and_is_skipped_the_next_time(tmp_path: Path) -> None:
    said = multirun(tmp_path, "seed=1,2,3")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "task function was called" not in said.stdout
    records = {r.id: r for r in Store(tmp_path / "runs").records()}
    assert list(records) == ["seed1", "seed2", "seed3"]
    assert records["seed2"].spec == {"seed": 2, "way": "", "double": 2, "name": "app"}
    assert records["seed2"].provenance["overrides"] == ["seed=2"]
    before = (tmp_path / "runs" / "seed1" / "record.json").stat().st_mtime_ns
    again = multirun(tmp_path, "seed=1,2,3")
    assert "3/3 done · 0 running · 3 were there" in again.stdout
    assert (tmp_path / "runs" / "seed1" / "record.json").stat().st_mtime_ns == before


def test_all_refusals_are_shown_and_nothing_runs(tmp_path: Path) -> None:
    said = multirun(tmp_path, "seed=1,-2,-3")
    assert said.returncode == 1
    assert "2 of 3 runs are refused" in said.stderr
    assert "Traceback" not in said.stderr
    assert "seed=-2: seed: must not be negative (got -2)" in said.stderr
    assert "seed=-3: seed: must not be negative (got -3)" in said.stderr
    assert not (tmp_path / "runs").exists()


def test_a_failed_run_lets_the_others_run_and_fails_the_command(tmp_path: Path) -> None:
    said = multirun(tmp_path, "seed=1,2", "way='',raise")
    assert said.returncode == 1
    assert "ArithmeticError: as asked" in said.stderr
    assert "ArithmeticError: as asked" in said.stdout
    statuses = [r.status for r in Store(tmp_path / "runs").records()]
    assert sorted(statuses) == ["crashed", "crashed", "finished", "finished"]


def test_a_crash_is_no_success_where_an_older_outcome_stands(tmp_path: Path) -> None:
    before = RunRecord(id="seed1raise", status="finished", source_hash="older", spec={}, fingerprint={})
    before.save(tmp_path / "runs" / before.id)
    said = multirun(tmp_path, "seed=1", "way=raise")
    assert said.returncode == 1, said.stdout
    assert "run seed1raise (seed=1 way=raise) crashed: ArithmeticError: as asked" in said.stderr
    assert Store(tmp_path / "runs").load(before.id) == before


def test_the_launcher_costs_no_torch_at_the_start(tmp_path: Path) -> None:
    code = (
        "import sys; from hydra.core.plugins import Plugins\n"
        "names = [p.__name__ for p in Plugins.instance().discover()]\n"
        "assert 'SlotsLauncher' in names, names\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'rich')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path).returncode == 0
