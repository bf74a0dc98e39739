#!/usr/bin/env bash
# transformers: Mamba and Mamba-2 accept past_key_values= and ignore it; decoding goes on without a memory.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

torch.manual_seed(0)
models = [
    MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8)),
    Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16, n_groups=1
        )
    ),
]
tokens = torch.randint(0, 64, (1, 12))


@torch.no_grad()
def error(model, keyword):
    """Largest difference between cached decoding and the whole pass, over the last four tokens."""
    whole = model(tokens).logits[:, 8:]
    memory = model(tokens[:, :8], use_cache=True)
    steps = [model(tokens[:, i : i + 1], use_cache=True, **{keyword: memory.cache}).logits for i in range(8, 12)]
    return (torch.cat(steps, dim=1) - whole).abs().max().item()


print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: past_key_values=, the name that all attention models use, hands the memory back or is refused")
print("seen:     it is taken without a word and has no effect; only cache= acts")
print("output:   largest error of the logits against the whole pass")
holds = True
for model in models:
    ignored, used = error(model.eval(), "past_key_values"), error(model, "cache")
    print(f"          {type(model).__name__}: past_key_values {ignored:.3g}, cache {used:.3g}")
    holds = holds and ignored > 0.05 and used < 1e-4
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
