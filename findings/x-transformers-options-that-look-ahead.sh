#!/usr/bin/env bash
# x-transformers: three options of the causal Decoder let a position see tokens after it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 x-transformers==2.31.10

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from x_transformers import Decoder, TransformerWrapper


@torch.no_grad()
def leak(**options):
    """Largest change of the first eight positions' logits when only later tokens are changed."""
    torch.manual_seed(0)
    model = TransformerWrapper(
        num_tokens=64, max_seq_len=32, attn_layers=Decoder(dim=64, depth=2, heads=2, **options)
    ).eval()
    tokens = torch.randint(0, 64, (1, 16))
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 7) % 64
    return (model(tokens)[:, :8] - model(changed)[:, :8]).abs().max().item()


options = ("orthog_residual", "mv_split_residual", "attn_orthog_projected_values")
plain, leaks = leak(), {option: leak(**{option: True}) for option in options}
print("version:  x-transformers", version("x-transformers"), "torch", torch.__version__)
print("expected: every option of Decoder keeps the model causal: earlier logits do not change at all")
print("seen:     these project over time and channels at once, so training loss falls by reading the answer")
print("output:   no option                    ", plain)
for option, change in leaks.items():
    print(f"          {option:29}", change)
raise SystemExit(None if plain == 0 and min(leaks.values()) > 1e-3 else "the behaviour has changed")
PYTHON
