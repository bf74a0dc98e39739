#!/usr/bin/env bash
# torch: fused=True optimizers on a CPU read a transposed gradient in the wrong order.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn


def orthogonalised(gradient):
    """The nearest matrix with orthonormal rows or columns, computed on the wide side, as Muon does."""
    tall = gradient.shape[0] > gradient.shape[1]
    u, _, v = torch.linalg.svd(gradient.mT if tall else gradient, full_matrices=False)
    return (u @ v).mT if tall else u @ v


def error(make, fused):
    """Largest difference between the update and a copy of it with the gradient made contiguous."""
    after = []
    for contiguous in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(4, 8, bias=False)
        layer(torch.randn(16, 4)).square().mean().backward()
        gradient = orthogonalised(layer.weight.grad)
        layer.weight.grad = gradient.contiguous() if contiguous else gradient
        make(layer.parameters(), lr=0.1, fused=fused).step()
        after.append(layer.weight.detach().clone())
    return (after[0] - after[1]).abs().max().item()


print("version:  torch", torch.__version__)
print("expected: the strides of a gradient do not matter to an optimizer: fused=True is a matter of speed")
print("seen:     the fused CPU step pairs weights with the wrong elements of a transposed gradient, and says nothing")
print("output:   largest difference of the new weights to those from a contiguous gradient (lr 0.1)")
holds = True
for make in (torch.optim.SGD, torch.optim.AdamW):
    plain, fused = error(make, False), error(make, True)
    print(f"          {make.__name__:6} fused=False {plain:.3g}, fused=True {fused:.3g}")
    holds = holds and plain < 1e-6 and fused > 1e-2
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
