"""A whole study, from the command to its report, against the ideal and against a shell loop.

    python benchmarks/study.py [--runs 12] [--seconds 60]      about half an hour on two idle cores
    python benchmarks/study.py --runs 2 --seconds 2            the same, to try it

Trainings of equal length, of two arms, by `python sweep.py` with all slots busy: planning, training, scoring
and report. It finds no compiled code, and compiles its own where it is long enough. The ideal is the sum
of the seconds that the runs trained, over the slots. The loop trains the same runs by `python train.py`, one
after the other, with the number of threads that was fastest for the first; where the study compiled its runs,
compiled or not, and what it compiles is compiled before its time counts. It neither scores nor reports.
Wall-clock: the machine must have nothing else to do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from record import Table, save

from ablate.cli.check import probe
from ablate.cli.composer import Composer
from ablate.engine.store import Store

ROOT = Path(__file__).parent.parent
ARMS = {"rmsnorm": [], "layernorm": ["model/norm=layernorm"]}
BASE = ["model/size=0.2M", "model.context=128", "data/tokenizer=bytes", "budget.batch_tokens=1024"]
BASE += ["evaluation.every=0"]
IDEAL, LOOP = 0.92, 1.5
NOTE = f"""Targets: the ideal over the study at least {IDEAL}, the loop over the study at least {LOOP} on two
cores. `ideal` counts the seconds from the first step to the last: validation, scoring and imports are waste.
Planning holds the measurement of what compiling gains. Scoring and the report are what the loop does not
do."""


def base(cache: Path, seconds: float) -> list[str]:
    """Overrides for runs of about so many seconds in one thread."""
    one = 1024
    spec = Composer(str(cache)).job([*BASE, f"budget.tokens={100 * one}"]).spec
    steps = max(20, round(100 * seconds / min(probe(spec) for _ in range(5))))
    return [*BASE, f"budget.tokens={steps * one}"]


def timed(command: list[str]) -> tuple[float, list[tuple[float, str]]]:
    """Seconds of a command, and when it said which line. Raises RuntimeError where it fails."""
    begin = time.perf_counter()
    said = []
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append((time.perf_counter() - begin, line.rstrip()))
    if process.returncode:
        raise RuntimeError("\n".join([f"{' '.join(command)} failed:", *(line for _, line in said)]))
    return time.perf_counter() - begin, said


def study(folder: Path, cache: Path, overrides: list[str], seeds: int, slots: int) -> dict[str, Any]:
    """Seconds of the whole, of its phases, and of training."""
    place = folder / "experiments" / "speed"
    place.mkdir(parents=True)
    said = {
        "question": "How long does a study take?",
        "base": overrides,
        "axis": ["model.norm"],
        "baseline": "rmsnorm",
        "arms": ARMS,
        "seeds": seeds,
        "tune": "fixed",
        "metric": "heldout/loss",
        "equivalence_margin": 0.02,
        "interval": "paired",
        "placebo": False,
    }
    (place / "study.yaml").write_text(yaml.safe_dump(said))
    store = folder / "runs"
    command = ["sweep.py", "experiment=speed", f"experiments={folder / 'experiments'}"]
    command += [f"runs={store}", f"cache={cache}", f"slots={slots}"]
    whole, lines = timed(command)
    planned = next(at for at, line in lines if line.endswith("runs to do"))
    trained = max(at for at, line in lines if " finished " in line)
    records = list(Store(store).records())
    return {
        "whole": whole,
        "planning": planned,
        "training and scoring": trained - planned,
        "report": whole - trained,
        "runs": [record.speed["seconds"] for record in records],
        "compiled": any(record.provenance["settings"]["compile"] for record in records),
    }


def loop(
    folder: Path, cache: Path, overrides: list[str], seeds: int, cores: int, compiling: tuple[str, ...]
) -> tuple[float, dict[str, float]]:
    """(seconds of the runs one after the other, those of the first by way of training it)."""
    todo = [[*overrides, *arm, f"seed={seed}"] for seed in range(seeds) for arm in ARMS.values()]

    ways = [
        (f"trainer.threads={threads}", f"trainer.compile={compiled}")
        for threads in range(1, cores + 1)
        for compiled in compiling
    ]

    def run(arm: list[str], how: tuple[str, str]) -> float:
        place = [f"runs={folder / str(ways.index(how))}", f"cache={cache}", *how]
        return timed(["train.py", *arm, *place, "trainer.progress=false", "sample.tokens=0"])[0]

    first = {}
    for how in ways:
        for arm in ARMS.values() if "trainer.compile=true" in how else ():
            run([*overrides, *arm, "budget.tokens=20480", "seed=100"], how)  # compiled before it counts
        first[how] = run(todo[0], how)
    best = min(first, key=lambda how: first[how])
    whole = first[best] + sum(run(arm, best) for arm in todo[1:])
    return whole, {" ".join(how): seconds for how, seconds in first.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=12, help="a multiple of two")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run, about")
    given = parser.parse_args()
    if given.runs < len(ARMS) or given.runs % len(ARMS):
        parser.error(f"--runs {given.runs}: must be a multiple of {len(ARMS)}")
    cores = len(os.sched_getaffinity(0))
    seeds = given.runs // len(ARMS)
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        overrides = base(cache, given.seconds)
        took = study(folder, cache, overrides, seeds, cores)
        compiling = ("false", "true") if took["compiled"] else ("false",)
        alone, first = loop(folder, cache, overrides, seeds, cores, compiling)
    ideal = sum(took["runs"]) / cores
    phases = ["planning", "training and scoring", "report"]
    rows = [
        ["the study", took["whole"]],
        *([f"of which {phase}", took[phase]] for phase in phases),
        ["a run trains, seconds", took["runs"]],
        ["ideal / study", ideal / took["whole"]],
        *([f"the first run by train.py, {how}", seconds] for how, seconds in first.items()),
        ["the loop, as the fastest of these", alone],
        ["loop / study", alone / took["whole"]],
    ]
    title = f"{given.runs} runs in {cores} slots"
    save("study", [Table(title, ["what", "figure"], rows, NOTE)], clock="wall-clock")


if __name__ == "__main__":
    main()
