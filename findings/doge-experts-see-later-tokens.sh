#!/usr/bin/env bash
# transformers: Doge with experts sees later tokens, since its router mixes the numbers of all tokens.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import DogeConfig, DogeForCausalLM

torch.manual_seed(0)
config = DogeConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, is_moe=True, num_experts=16, num_experts_per_tok=4,
)
model = DogeForCausalLM(config).double().eval()
tokens = torch.randint(64, (1, 12))
changed = tokens.clone()
changed[:, 6:] = (changed[:, 6:] + 1) % 64
with torch.no_grad():
    before, after = model(tokens).logits[:, :6], model(changed).logits[:, :6]
    dense = DogeForCausalLM(DogeConfig(**{**config.to_dict(), "is_moe": False})).double().eval()
    plain = (dense(tokens).logits[:, :6] - dense(changed).logits[:, :6]).abs().max().item()
moved = (before - after).abs().max().item()
print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: logits of a causal model do not depend on later tokens, with experts as without")
print("seen:     with is_moe=True tokens 7 to 12 change the logits of tokens 1 to 6: the router's logits are")
print("          viewed as two halves, which takes numbers of other tokens, so its loss is that of a leak")
print(f"output:   largest change of the first six logits: is_moe=True {moved:.2e}, is_moe=False {plain:.2e}")
raise SystemExit(None if moved > 1e-6 and plain < 1e-12 else "the behaviour has changed")
PYTHON
