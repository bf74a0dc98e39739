#!/usr/bin/env bash
# wandb: define_metric(summary=min) becomes NaN with the first nan and stays so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet wandb==0.31.0

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import wandb

losses = [3.0, 2.0, math.nan, 1.0]
run = wandb.init(mode="offline", project="finding", settings=wandb.Settings(console="off", silent=True))
run.define_metric("loss", summary="min,max")
for loss in losses:
    run.log({"loss": loss})
lowest, highest = run.summary["loss"]["min"], run.summary["loss"]["max"]
run.finish()

print("version:  wandb", wandb.__version__)
print("expected: the least of", losses, "is 1 and the largest 3: nan is no least and no largest value")
print("seen:     after one nan both are NaN for the rest of the run, though better losses follow")
print("output:   min", lowest, "max", highest)
raise SystemExit(None if math.isnan(lowest) and math.isnan(highest) else "the behaviour has changed")
PYTHON
