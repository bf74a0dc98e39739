#!/usr/bin/env bash
# transformers: XGLM's pad_token_id empties a row of its position table, so a real token loses its position.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import XGLMConfig, XGLMForCausalLM

transformers.logging.set_verbosity_error()


def model(pad_token_id):
    torch.manual_seed(0)
    config = XGLMConfig(
        vocab_size=64, d_model=32, ffn_dim=64, num_layers=1, attention_heads=4, max_position_embeddings=32,
        pad_token_id=pad_token_id,
    )
    return XGLMForCausalLM(config).eval()


usual, other = model(1), model(5)
other.load_state_dict(usual.state_dict())
tokens = torch.full((1, 10), 9)  # no token is the pad token of either
with torch.no_grad():
    moved = (usual(tokens).logits - other(tokens).logits).abs().amax(-1)[0]
first = int(moved.nonzero()[0])
print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: pad_token_id matters to padding alone; a text without it has the same logits")
print("seen:     position p reads row p + 2 of a fixed table whose row pad_token_id is zero")
print(f"output:   pad_token_id 5 in place of 1 moves the logits from position {first} on, by {moved.max():.2f}")
raise SystemExit(None if first == 3 and moved[3] > 1e-3 else "the behaviour has changed")
PYTHON
