#!/usr/bin/env bash
# transformers: OLMo Hybrid's rms_norm_eps reaches every norm but the gated output norm of its linear
# attention.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import OlmoHybridConfig, OlmoHybridForCausalLM

config = OlmoHybridConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
    num_key_value_heads=2, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=16,
    linear_value_head_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-2,
)
torch.manual_seed(0)
model = OlmoHybridForCausalLM(config)
eps = {}
for name, module in model.named_modules():
    if "Norm" in type(module).__name__:
        eps.setdefault(name.split(".")[-1], set()).add(module.variance_epsilon)

print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: rms_norm_eps=0.01 is the eps of every RMSNorm of the model")
print("seen:     o_norm, after the gated delta rule, has 1e-05 whatever the config says")
for name, values in sorted(eps.items()):
    print(f"output:   {name:28} {sorted(values)}")
holds = eps.pop("o_norm") == {1e-5} and all(values == {1e-2} for values in eps.values())
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
