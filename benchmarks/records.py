"""A study of many runs, all of them done: its plan, its resumption and its report, in CPU time and memory.

    python benchmarks/records.py [--runs 20000]           about five minutes
    python benchmarks/records.py --beside ../another      the same of another checkout too, in turn

The records are made by formula, and are valid ones: their specifications and ids are those of the plan, their
sizes those of runs of 0.2M parameters with 93 documents held out. Each checkout makes its own, as ids may
differ. A command's time is its CPU time, its children's too; its memory is the most that was resident.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENTS = 93
RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
BASE = ["model/size=0.2M", "model.context=128", "data/tokenizer=bytes", "budget.batch_tokens=1024"]
ARMS = {
    "rope": [],
    "alibi": ["model/position=alibi"],
    "learned": ["model/position=learned"],
    "none": ["model/position=none"],
    "layernorm": ["model/norm=layernorm"],
    "gelu": ["model/ffn=gelu"],
    "post": ["model/placement=post"],
    "parallel": ["model/topology=parallel"],
    "cold": ["schedule.warmup=0"],
    "grouped": ["model.attention.kv_heads=1"],
    "near": ["model.attention.window=32"],
    "bare": ["model/norm=none"],
}
COMMANDS = {"plan": ["plan=true"], "resume": [], "report": ["report=true"]}
TARGET_SECONDS, TARGET_MEMORY = 15, 400
NOTE = f"""Targets: plan and report at most {TARGET_SECONDS} s and {TARGET_MEMORY} MB each. `resume` is the
study's own command where nothing is left to do: it reads all records, collects the results and reports."""


def study(runs: int) -> dict[str, Any]:
    """A study of about so many runs: a tenth of them tunes, the rest are tests and fixed runs."""
    tuning = max(2, round(runs / 10 / len(ARMS) / len(RATES)))
    return {
        "question": "How long does a study of many runs take to read?",
        "base": [*BASE, "budget.tokens=4096000"],
        "axis": ["model", "schedule"],
        "baseline": "rope",
        "arms": ARMS,
        "seeds": max(3, round(runs * 0.9 / (2 * len(ARMS) - 1))),
        "tune": {"optim.lr": RATES, "seeds": tuning},
        "metric": "heldout/loss",
        "equivalence_margin": 0.02,
        "interval": "paired",
        "placebo": False,
    }


def make(folder: Path, runs: int) -> None:
    """Write the study and a record for every run that it asks for, stage by stage."""
    import numpy as np
    import yaml
    from omegaconf import OmegaConf

    from ablate.cli.options import SweepOptions
    from ablate.cli.workspace import Workspace
    from ablate.record import RunRecord
    from ablate.study.design.plan import plan
    from ablate.study.design.runs import stages
    from ablate.study.design.study import load_study

    place = folder / "experiments" / "many"
    place.mkdir(parents=True)
    (place / "study.yaml").write_text(yaml.safe_dump(study(runs)))
    options = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "sweep.yaml"))
    given = {key: value for key, value in options.items() if key not in ("defaults", "hydra")}
    workspace = Workspace(SweepOptions.model_validate({**given, "experiment": "many", **places(folder)}))
    planned = plan(load_study(place / "study.yaml"), workspace)
    effects = {arm.name: 0.013 * n for n, arm in enumerate(planned.arms)}
    random, began = np.random.default_rng(0), datetime(2026, 1, 1, tzinfo=UTC)
    by_seed: dict[int, float] = {}
    tokens = (40.0 + np.arange(DOCUMENTS)).tolist()
    source = {}
    done: set[str] = set()
    for stage in stages(planned, workspace):
        for run in stage.runs:
            if run.id in done:
                continue
            done.add(run.id)
            level = 2 + effects[run.arm] + by_seed.setdefault(run.seed, random.normal(0, 0.01))
            loss = float(level + 0.2 * np.log10((run.rate or 2e-3) / 2e-3) ** 2 + random.normal(0, 0.01))
            losses = {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": loss / np.log(2)}
            tested = run.role != "tuning"
            splits = ("validation", "heldout") if tested else ("validation",)
            by_document = np.array(tokens) * (loss + random.normal(0, 0.05, DOCUMENTS))
            data = workspace.text(_data(run.spec)).fingerprint
            source[run.arm] = workspace.source_hash(run)
            facts = planned.arm(run.corpus, run.arm).facts
            began += timedelta(seconds=70)
            RunRecord(
                id=run.id,
                status="finished",
                source_hash=source[run.arm],
                spec=run.spec,
                fingerprint=data,
                metrics={f"{split}/{name}": value for split in splits for name, value in losses.items()},
                vectors={"heldout/by_document": by_document.tolist(), "heldout/document_tokens": tokens}
                if tested
                else {},
                measures={"heldout": measure_of(workspace)} if tested else {},
                counts={
                    **facts.parameters,
                    "training_flops": facts.flops_per_token,
                    "kv_bytes": facts.kv_bytes_per_token,
                },
                speed={"tokens_per_second": 6e4 + 1e3 * random.normal(), "seconds": 68 + random.normal()},
                memory={"peak_resident_bytes": 7e8 + 1e6 * random.normal()},
                weights_hash=f"{random.integers(2**63):016x}" * 4,
                kernel=facts.kernel,
                heldout_reads=int(tested),
                provenance=provenance(began),
            ).save(folder / "runs" / run.id)
    print(f"{len(done)} records")


def measure_of(workspace: Any) -> str:
    from ablate.train.state.source_hash import measure_hash

    if not hasattr(workspace, "_measure"):
        workspace._measure = measure_hash("heldout")
    return str(workspace._measure)


def _data(spec: dict[str, Any]) -> Any:
    from ablate.spec import DataSpec

    return DataSpec.model_validate(spec["data"])


def provenance(began: datetime) -> dict[str, Any]:
    return {
        "ablate": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "lightning": "2.6.6", "numpy": "2.4.0",
        "git": "72d76f3ecd4645dee349ad486c35e144fb248d78", "device": "cpu", "devices": 1,
        "device_kind": "a processor", "platform": "Linux-6.18-x86_64", "command": "sweep.py experiment=many",
        "began": began.isoformat(), "ended": (began + timedelta(seconds=70)).isoformat(),
        "settings": {"accelerator": "cpu", "devices": 1, "threads": 1, "keep": "weights", "compile": False},
    }  # fmt: skip


def places(folder: Path) -> dict[str, str]:
    return {
        "experiments": str(folder / "experiments"),
        "runs": str(folder / "runs"),
        "cache": str(folder / "cache"),
    }


def timed(checkout: Path, command: list[str]) -> tuple[float, float, float]:
    """(CPU seconds, wall-clock seconds, MB at the peak) of a command. Raises RuntimeError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=checkout, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read().decode()}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begin, used.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20_000, help="about")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another checkout")
    parser.add_argument("--make", type=Path, help="only make the study and its records in this folder")
    given = parser.parse_args()
    if given.make:
        make(given.make, given.runs)
    else:
        beside = {path.resolve().name: path.resolve() for path in given.beside}
        compare(given.runs, given.rounds, {"this": ROOT, **beside})


def compare(runs: int, rounds: int, checkouts: dict[str, Path]) -> None:
    """Time every command in every checkout, in turn, and save what was measured."""
    from record import Table, save

    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {checkout: Path(name) / checkout for checkout in checkouts}
        for checkout, path in checkouts.items():
            timed(path, [__file__, "--make", str(folders[checkout]), "--runs", str(runs)])
        for _ in range(rounds):
            for doing, options in COMMANDS.items():
                for checkout, path in checkouts.items():
                    where = [f"{key}={value}" for key, value in places(folders[checkout]).items()]
                    took = timed(path, ["sweep.py", "experiment=many", *where, *options])
                    found.setdefault((checkout, doing), []).append(took)
                    print(checkout, doing, "{:.1f} s CPU, {:.1f} s, {:.0f} MB".format(*took), flush=True)
    columns = ["checkout", "command", "CPU seconds", "seconds", "MB"]
    rows: list[list[Any]] = [
        [checkout, doing, *map(list, zip(*took, strict=True))] for (checkout, doing), took in found.items()
    ]
    save("records", [Table(f"{runs} runs, all done", columns, rows, NOTE)], clock="CPU time")


if __name__ == "__main__":
    main()
