"""A block of the studies of experiments/gpu: runs what is missing, stops in time, packs the records.

    python benchmarks/evidence.py [STUDY ...] [--minutes 9] [--per-gpu 8] [--device gpu]

Run it again, on this machine or another, until it says that nothing is left. See experiments/gpu/README.md.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "experiments" / "gpu"
ORDER = ("llama_8m", "position_8m", "attention_8m", "mixers_8m")
STOPPING = 45.0  # seconds that runs may take to save themselves: the engine gives them 30
PACKING = 60.0  # seconds kept for packing
MORE = 3  # exit code: run it again


def main(given: Sequence[str] | None = None) -> int:
    """0 where all runs of the studies are there, 3 where another block is needed, 1 where a study failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("studies", nargs="*", default=list(ORDER), help="names of folders, in this order")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole block")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--per-gpu", type=int, default=8, help="runs side by side on one GPU")
    parser.add_argument("--slots", type=int, help="runs side by side on a CPU")
    parser.add_argument("--experiments", type=Path, default=STUDIES, help="where the studies are, or are put")
    parser.add_argument("--override", nargs="+", default=[], help="make small copies: added to each base")
    parser.add_argument("--seeds", type=int, help="of small copies")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--cache", default="cache")
    options = parser.parse_args(given)
    small = bool(options.override or options.seeds)
    if small and options.experiments == STUDIES:
        parser.error("--override and --seeds make copies: give a folder for them with --experiments")
    end = time.monotonic() + 60 * options.minutes
    left = False
    for name in options.studies:
        if small:
            copy(name, options.experiments, options.override, options.seeds)
        code = block(name, options, end)
        if code not in (0, MORE):
            return code
        left |= code == MORE
    print("run it again: runs are left" if left else "nothing is left", flush=True)
    return MORE if left else 0


def copy(name: str, to: Path, overrides: Sequence[str], seeds: int | None) -> None:
    """A copy of a study with other seeds, and a base in which `overrides` take the place of their like."""
    study: dict[str, Any] = yaml.safe_load((STUDIES / name / "study.yaml").read_text())
    changed = {override.partition("=")[0] for override in overrides}
    kept = [override for override in study["base"] if override.partition("=")[0] not in changed]
    study["base"] = [*kept, *overrides]
    if seeds is not None:
        study = {**study, "seeds": seeds}
        study.pop("interim_seeds", None)
    (to / name).mkdir(parents=True, exist_ok=True)
    (to / name / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def block(name: str, options: argparse.Namespace, end: float) -> int:
    """Freeze, run and pack one study until `end`, a time of `time.monotonic`."""
    folder = options.experiments / name
    if remaining(end) <= 0:
        return MORE
    if not (folder / "plan.json").is_file():
        code = within(sweep(name, options, "freeze=true"), remaining(end))
        if code != 0:
            return MORE if code is None else code
    if remaining(end) <= 0:
        return MORE
    code = within(sweep(name, options), remaining(end))
    packed = subprocess.run(sweep(name, options, "pack=true"), cwd=ROOT).returncode
    if packed != 0:
        return packed
    return MORE if code is None else code


def remaining(end: float) -> float:
    """Seconds that a study may still run for, so that it can stop and be packed."""
    return end - time.monotonic() - STOPPING - PACKING


def sweep(name: str, options: argparse.Namespace, *more: str) -> list[str]:
    """The command of a study. Runs of another version of the code are kept, and named in the report."""
    command = [sys.executable, str(ROOT / "sweep.py"), f"experiment={name}", "stale=keep"]
    places = {"experiments": options.experiments, "runs": options.runs, "cache": options.cache}
    command += [f"{place}={value}" for place, value in places.items()]
    if options.device == "gpu":
        command += ["gpus=true", f"per_gpu={options.per_gpu}"]
    elif options.slots is not None:
        command += [f"slots={options.slots}"]
    return [*command, *more]


def within(command: Sequence[str], seconds: float) -> int | None:
    """Run a command and stop it after `seconds` as Ctrl-C does: its exit code, None where stopped."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


if __name__ == "__main__":
    if shutil.which("nvidia-smi") is None and "--device" not in " ".join(sys.argv):
        sys.exit("there is no GPU here; for a trial on the CPU see experiments/gpu/README.md")
    raise SystemExit(main())
