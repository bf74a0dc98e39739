#!/usr/bin/env bash
# torch: with no target left, the gradient of F.linear_cross_entropy is 0 or nan depending on options=.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.nn import LinearCrossEntropyOptions

target = torch.full((4,), -100)  # every position ignored, as in a micro-batch of padding or of prompts


def gradient(loss):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True)
    value = loss(x, weight)
    value.backward()
    return value.item(), x.grad.abs().max().item(), weight.grad.abs().max().item()


plain = gradient(lambda x, weight: F.cross_entropy(x @ weight.T, target))
default = gradient(lambda x, weight: F.linear_cross_entropy(x, weight, target))
options = gradient(lambda x, weight: F.linear_cross_entropy(x, weight, target, options=LinearCrossEntropyOptions()))

print("version:  torch", torch.__version__)
print("expected: options= chooses how the loss is computed, not what it is: loss nan (0 / 0) and gradient 0, as F.cross_entropy")
print("seen:     with options=None the gradient is 0, with default options it is nan and spoils an accumulated gradient")
print("output:   loss, largest gradient of x, largest gradient of the weight")
print("          F.cross_entropy(x @ w.T):      ", plain)
print("          F.linear_cross_entropy:        ", default)
print("          the same, default options:     ", options)
holds = plain[1:] == default[1:] == (0.0, 0.0) and all(value != value for value in options)
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
