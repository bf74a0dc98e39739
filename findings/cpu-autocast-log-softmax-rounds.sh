#!/usr/bin/env bash
# torch: under CPU bf16 autocast, nll_loss(log_softmax(z)) is rounded to bf16 and cross_entropy(z) is exact.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

torch.manual_seed(0)
logits = torch.randn(8, 50000).bfloat16()
target = torch.randint(0, 50000, (8,))
exact = F.cross_entropy(logits.double(), target)
with torch.autocast("cpu", torch.bfloat16):
    fused = F.cross_entropy(logits, target)
    split = F.nll_loss(F.log_softmax(logits, dim=-1), target)
    probabilities = F.log_softmax(logits, dim=-1).dtype

print("version:  torch", torch.__version__)
print("expected: log_softmax is computed in fp32 under autocast, as on CUDA, so both forms of the loss agree")
print("seen:     on a CPU log_softmax stays in bf16; nll_loss then returns fp32, which hides the rounding")
print("output:   in fp64:                  ", exact.item())
print("          cross_entropy:            ", fused.item(), fused.dtype)
print("          nll_loss(log_softmax):    ", split.item(), split.dtype)
print("          log_softmax's own dtype:  ", probabilities)
holds = (fused - exact).abs() < 1e-4 < (split - exact).abs() and split.dtype == torch.float32
raise SystemExit(None if holds and probabilities == torch.bfloat16 else "the behaviour has changed")
PYTHON
