#!/usr/bin/env bash
# x-transformers: rotary_pos_emb rotates half of each head by default, so half of the channels know no
# position.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 x-transformers==2.31.10

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from x_transformers import Decoder


def rotated_channels(dim_head, **options):
    rotary = Decoder(
        dim=2 * dim_head, depth=1, heads=2, attn_dim_head=dim_head, rotary_pos_emb=True, **options
    ).rotary_pos_emb
    return 2 * len(rotary.inv_freq)


default = {width: rotated_channels(width) for width in (64, 128)}
whole = {width: rotated_channels(width, rotary_emb_dim=width) for width in (64, 128)}
print("version:  x-transformers", version("x-transformers"), "torch", torch.__version__)
print("expected: rotary_pos_emb=True rotates all channels of a head, as RoFormer, LLaMA and most models with RoPE do")
print("seen:     it rotates half of them, so a comparison with another library's RoPE compares partial with full rotation")
for width in default:
    print(f"output:   heads of {width}: {default[width]} rotated; with rotary_emb_dim={width}: {whole[width]}")
holds = all(2 * default[width] == width == whole[width] for width in default)
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
