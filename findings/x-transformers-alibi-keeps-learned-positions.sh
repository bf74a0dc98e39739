#!/usr/bin/env bash
# x-transformers: alibi_pos_bias leaves a learned absolute embedding in place; rotary and T5 positions
# remove it.
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


def learned_positions(**option):
    """Number of position parameters at the input of a decoder with this option."""
    model = TransformerWrapper(
        num_tokens=64, max_seq_len=32, attn_layers=Decoder(dim=64, depth=1, heads=2, attn_dim_head=64, **option)
    )
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith("pos_emb."))


options = ("rotary_pos_emb", "rel_pos_bias", "alibi_pos_bias", "dynamic_pos_bias")
found = {option: learned_positions(**{option: True}) for option in options}
print("version:  x-transformers", version("x-transformers"), "torch", torch.__version__)
print("expected: choosing a relative scheme replaces the learned absolute embedding, whichever scheme it is")
print("seen:     rotary and T5 do; ALiBi and the dynamic bias are added to a learned table of max_seq_len rows, which")
print("          cannot extrapolate")
for option, count in found.items():
    print(f"output:   {option + '=True':22} {count} learned position parameters")
raise SystemExit(None if list(found.values()) == [0, 0, 2048, 2048] else "the behaviour has changed")
PYTHON
