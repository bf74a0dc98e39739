#!/usr/bin/env bash
# datasets: interleave_datasets(first_exhausted) gives 6 rows map-style and 5 streamed, of the same two data
# sets.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet datasets==5.2.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import datasets
from datasets import Dataset, interleave_datasets

short = Dataset.from_dict({"row": ["a0", "a1", "a2"]})
long = Dataset.from_dict({"row": [f"b{i}" for i in range(10)]})


def rows(*parts):
    return [example["row"] for example in interleave_datasets(list(parts), stopping_strategy="first_exhausted")]


mapped, streamed = rows(short, long), rows(short.to_iterable_dataset(), long.to_iterable_dataset())
print("version:  datasets", datasets.__version__)
print("expected: the same call on the same data gives the same rows, whether they are streamed or not")
print("seen:     map-style finishes the round in which the shorter set ends; streamed stops at its last row")
print("output:   map-style:", mapped)
print("          streamed: ", streamed)
holds = len(mapped) == 6 and len(streamed) == 5 and mapped[:5] == streamed
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
