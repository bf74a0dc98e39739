#!/usr/bin/env bash
# transformers: DBRX's rope_theta, which its released config.json has in attn_config, is not read.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import DbrxConfig, DbrxForCausalLM


def slowest(**said):
    """The base that the model reads, and the frequency of its slowest pair."""
    config = DbrxConfig(
        vocab_size=64, d_model=64, n_heads=4, n_layers=1, max_seq_len=64,
        ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 2, "moe_top_k": 1}, **said,
    )
    rotary = next(m for m in DbrxForCausalLM(config).modules() if hasattr(m, "inv_freq"))
    return config.rope_parameters["rope_theta"], rotary.inv_freq[-1].item()


released = {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 500_000}  # as databricks/dbrx-instruct has it
inside = slowest(attn_config=released)
outside = slowest(attn_config=released, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: a config.json with attn_config.rope_theta 500000, as released, turns with the base 500000")
print("seen:     the model turns with 10000, in silence, unless rope_parameters says the base again")
for name, (base, frequency) in (("attn_config alone", inside), ("both", outside)):
    print(f"output:   {name:17}  base {base:g}, slowest pair {frequency:.3g} a position")
raise SystemExit(None if inside[0] == 10_000.0 and outside[0] == 500_000.0 else "the behaviour has changed")
PYTHON
