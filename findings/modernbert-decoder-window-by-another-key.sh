#!/usr/bin/env bash
# transformers: in a saved config of the ModernBERT decoder local_attention counts for nothing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import tempfile
from pathlib import Path

import transformers
from transformers import AutoConfig

with tempfile.TemporaryDirectory() as folder:
    AutoConfig.for_model("modernbert-decoder", local_attention=16).save_pretrained(folder)
    file = Path(folder, "config.json")
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "local_attention": 128}))
    read = AutoConfig.from_pretrained(folder)
print("version:  transformers", transformers.__version__)
print("expected: local_attention in config.json, the family's documented window, decides the window")
print("seen:     a saved config holds sliding_window as well, which wins; an edited local_attention is ignored")
print(f"output:   saved {written['local_attention']=} {written['sliding_window']=}; after an edit to 128:", end=" ")
print(f"{read.local_attention=} {read.sliding_window=}")
raise SystemExit(None if read.sliding_window == written["sliding_window"] else "the behaviour has changed")
PYTHON
