#!/usr/bin/env bash
# transformers: rope_scaling beside rope_parameters silently sets the RoPE base back to 10000.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import pathlib

import transformers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
scaling = {"rope_type": "linear", "factor": 2.0}


def read(config):
    folder = pathlib.Path("model")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(folder)


new = LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}).to_dict()
old = {key: value for key, value in new.items() if key != "rope_parameters"} | {"rope_theta": 500000.0}
plain, both, old_form = read(new), read(new | {"rope_scaling": scaling}), read(old | {"rope_scaling": scaling})
frequency = [LlamaForCausalLM(c).model.rotary_emb.inv_freq[1].item() for c in (plain, both, old_form)]

print("version:  transformers", transformers.__version__)
print("expected: rope_scaling added to a config.json with rope_theta 500000 scales the positions and keeps the base,")
print("          as it does in the older form of the file")
print("seen:     where the file has rope_parameters, rope_scaling replaces them whole and the base becomes 10000")
print("output:   rope_parameters alone:            theta", plain.rope_parameters["rope_theta"], "frequency 1:", frequency[0])
print("          rope_parameters + rope_scaling:   theta", both.rope_parameters["rope_theta"], "frequency 1:", frequency[1])
print("          rope_theta + rope_scaling (old):  theta", old_form.rope_parameters["rope_theta"], "frequency 1:", frequency[2])
holds = both.rope_parameters["rope_theta"] == 10000.0 and old_form.rope_parameters["rope_theta"] == 500000.0
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
