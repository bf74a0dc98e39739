#!/usr/bin/env bash
# torch: FlopCounterMode counts no FLOPs for scaled_dot_product_attention on a CPU.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 16, 8)


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def on_math():
    with sdpa_kernel(SDPBackend.MATH):
        F.scaled_dot_product_attention(q, k, v)


by_formula = 2 * 2 * 2 * 16 * 16 * 8  # two products of 2 FLOPs, 2 heads, 16 x 16 scores, 8 channels
written = flops(lambda: (q @ k.mT * 8**-0.5).softmax(-1) @ v)
default = flops(lambda: F.scaled_dot_product_attention(q, k, v))
math = flops(on_math)

print("version:  torch", torch.__version__)
print("expected: the count depends on the shapes, not on the backend:", by_formula)
print("seen:     the default CPU backend counts 0, so a model's attention is missing from its FLOPs without a warning")
print("output:   written out:          ", written)
print("          SDPA, math backend:   ", math)
print("          SDPA, default backend:", default)
raise SystemExit(None if written == math == by_formula and default == 0 else "the behaviour has changed")
PYTHON
