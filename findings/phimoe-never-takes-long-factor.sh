#!/usr/bin/env bash
# transformers: PhiMoE with LongRoPE takes short_factor at every length.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import PhimoeConfig, PhimoeForCausalLM

transformers.logging.set_verbosity_error()


def logits(long_factor, tokens):
    """Of 48 tokens, by a model that was trained on 16."""
    torch.manual_seed(0)
    config = PhimoeConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 8, "long_factor": [long_factor] * 8, "short_mscale": 1.0, "long_mscale": 1.0,
        },
    )
    with torch.no_grad():
        return PhimoeForCausalLM(config).eval()(tokens).logits


tokens = torch.randint(64, (1, 48))
moved = (logits(4.0, tokens) - logits(1.0, tokens)).abs().max().item()
print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: beyond original_max_position_embeddings LongRoPE divides frequencies by long_factor")
print("seen:     long_factor changes nothing at any length: PhiMoE always takes short_factor")
print(f"output:   48 tokens of 16 trained: long_factor 4 in place of 1 moves the logits by {moved:.1e}")
raise SystemExit(None if moved == 0 else "the behaviour has changed")
PYTHON
