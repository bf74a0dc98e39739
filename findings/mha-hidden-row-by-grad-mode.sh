#!/usr/bin/env bash
# torch: a row of nn.MultiheadAttention that sees no key is 0 with gradients on and nan under no_grad.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
x = torch.randn(1, 3, 8)
hidden = torch.tensor([[True, True, True], [False, False, True], [False, False, False]])  # True: not seen

with_gradients, _ = attention(x, x, x, attn_mask=hidden, need_weights=False)
with torch.no_grad():
    without, _ = attention(x, x, x, attn_mask=hidden, need_weights=False)

print("version:  torch", torch.__version__)
print("expected: no_grad changes no value, whatever a row without keys is defined to be")
print("seen:     in one module, in evaluation mode, that row is 0 with gradients on and nan under no_grad")
print("output:   gradients on:", with_gradients[0, 0].tolist())
print("          no_grad:     ", without[0, 0].tolist())
print("          the other rows agree:", torch.allclose(with_gradients[0, 1:], without[0, 1:], atol=1e-6))
holds = bool((with_gradients[0, 0] == 0).all() and without[0, 0].isnan().all())
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
