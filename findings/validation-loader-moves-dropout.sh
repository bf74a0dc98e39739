#!/usr/bin/env bash
# torch: a pass over an unshuffled DataLoader without workers changes the dropout masks that follow.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def losses(validate):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 8)
    loader = DataLoader(TensorDataset(x), batch_size=2, shuffle=False, num_workers=0)
    found = []
    for step in range(4):
        if validate and step == 2:
            model.eval()
            with torch.no_grad():
                for (rows,) in loader:
                    model(rows)
            model.train()
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(round(loss.item(), 6))
    return found


without, with_validation = losses(False), losses(True)
print("version:  torch", torch.__version__)
print("expected: validation in eval mode, over a loader that draws nothing, leaves the training losses as they are")
print("seen:     making the loader's iterator draws a seed for workers that do not exist from the global generator, so")
print("          how often a run validates decides its dropout masks")
print("output:   losses without validation:           ", without)
print("          losses with one, before the third step:", with_validation)
holds = without[:2] == with_validation[:2] and without[2] != with_validation[2]
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
