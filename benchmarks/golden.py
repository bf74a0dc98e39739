"""Golden runs: the losses of six short trainings, for a change that should move no number.

    python benchmarks/golden.py write golden.json            the losses of this tree
    python benchmarks/golden.py compare golden.json          this tree against it, bit for bit

Both must run on one machine: other processors round differently. `--tree FOLDER` runs another checkout,
for example one of the commit before the change.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
COMMON = [
    "model.width=64",
    "model.depth=2",
    "model.heads=4",
    "model.context=64",
    "budget.tokens=10240",
    "budget.batch_tokens=512",
    "evaluation.every=5",
    "evaluation.tokens=1024",
    "trainer=cpu",
    "sample.tokens=0",
]
RUNS = {
    "llama": [],
    "transformer": ["model=transformer"],
    "mixture of experts": ["model/ffn=moe"],
    "alibi, window, peri": ["model/position=alibi", "model/attention=sliding", "model/placement=peri"],
    "muon, masked documents, bf16": ["optim=muon", "data.documents=masked", "precision=bf16"],
    "transformer-xl, parallel, skill": [
        "model/position=transformer_xl",
        "model/topology=parallel",
        "data=mqar",
    ],
}


def losses(tree: Path, overrides: list[str], cache: Path) -> dict[str, list[str]]:
    """Every training and validation loss of one run, as exact hexadecimal numbers."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "train.py", *COMMON, *overrides, f"runs={runs}", f"cache={cache}"]
        subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
        (curve,) = Path(runs).glob("*/curve.parquet")
        frame = pd.read_parquet(curve)
    return {name: [float(v).hex() for v in frame[name]] for name in ("loss", "validation_loss")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to run (default: this one)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        found = {name: losses(chosen.tree, overrides, Path(cache)) for name, overrides in RUNS.items()}
    if chosen.action == "write":
        chosen.file.write_text(json.dumps(found, indent=1))
        print(f"{chosen.file}: {len(found)} runs")
        return
    golden = json.loads(chosen.file.read_text())
    differing = [name for name in golden if golden[name] != found.get(name)]
    for name in differing:
        print(f"{name}: the losses differ")
    if differing:
        raise SystemExit(1)
    print(f"{len(golden)} runs equal bit for bit")


if __name__ == "__main__":
    main()
