"""This build beside an earlier one: what a step of training costs, and what a run costs beside its steps.

    python benchmarks/builds.py --earlier ../earlier [--rounds 3] [--sizes 0.2M 0.8M]

`--earlier` is a clone of the project at the other commit; both builds run under this interpreter, in turn.
Each is asked for two runs by its own `train.py`, a short and a longer one, compiled and on one thread. Time
is the CPU time of the process with its children. The difference of the two is that of the steps between, and
what is left of the short one is its fixed cost. The first round, which compiles, does not count.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from clock import positive, ratios
from record import Cell, Table, save

ROOT = Path(__file__).parents[1]
ROWS, CONTEXT = 8, 128
SHORT, LONG = 20, 170  # steps
SIZES = {"0.2M": ["model/size=0.2M"], "0.8M": ["model/size=tiny"]}
NOTE = """A ratio above 1 is in favour of this build. bf16 here over fp32 there is what a study gains that
chooses bf16 where it is measured to pay."""


def cpu_seconds(build: Path, size: str, precision: str, steps: int, folder: Path) -> float:
    """CPU seconds of one run, of its process and of those that it starts.

    Raises CalledProcessError where the run fails.
    """
    command = [sys.executable, "train.py", *SIZES[size], "model.context=128", "data/tokenizer=bytes"]
    command += [f"budget.batch_tokens={ROWS * CONTEXT}", f"budget.tokens={steps * ROWS * CONTEXT}"]
    command += [f"precision={precision}", "evaluation.every=0", "evaluation.tokens=1024", "sample.tokens=0"]
    command += ["trainer=cpu", "trainer.threads=1", "trainer.compile=true", "trainer.progress=false"]
    command += ["keep=none", f"runs={folder / 'runs'}", f"cache={folder / build.name}"]
    environment = os.environ | {"PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=build, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder / "runs")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", type=Path, required=True, help="a clone at the other commit")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    given = parser.parse_args()
    builds = {"earlier": given.earlier.resolve(), "this": ROOT}
    commit = subprocess.check_output(
        ["git", "rev-parse", "--short", "HEAD"], cwd=builds["earlier"], text=True
    )
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory(prefix="ablate-builds-") as temporary:
        for size in given.sizes:
            step: dict[tuple[str, str], list[float]] = {}
            fixed: dict[tuple[str, str], list[float]] = {}
            for n in range(given.rounds + 1):
                for precision in ("fp32", "bf16"):
                    for name, build in sorted(builds.items(), reverse=bool(n % 2)):
                        short, long = (
                            cpu_seconds(build, size, precision, steps, Path(temporary))
                            for steps in (SHORT, LONG)
                        )
                        each = (long - short) / (LONG - SHORT)
                        if n:
                            step.setdefault((name, precision), []).append(each)
                            fixed.setdefault((name, precision), []).append(short - SHORT * each)
            for ours, theirs in (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")):
                old, new = step["earlier", theirs], step["this", ours]
                before, now = fixed["earlier", theirs], fixed["this", ours]
                milliseconds = [[1e3 * x for x in old], [1e3 * x for x in new]]
                rows.append(
                    [size, theirs, ours, *milliseconds, ratios(old, new), before, now, ratios(before, now)]
                )
                print(*rows[-1], flush=True)
    columns = ["model", "earlier in", "this in", "a step there, ms", "here", "there / here"]
    columns += ["beside the steps there, s", "here", "there / here"]
    title = f"This build beside {commit.strip()}"
    save("builds", [Table(title, columns, rows, NOTE)], (__doc__ or "").split("\n")[0], "CPU time")


if __name__ == "__main__":
    main()
