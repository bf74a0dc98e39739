#!/usr/bin/env bash
# transformers: Nemotron-H's rescale_prenorm_residual scales the outputs of Mamba layers with depth and no
# others.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import statistics

import torch
import transformers
from transformers import NemotronHConfig, NemotronHForCausalLM


def output_stds(depth):
    """Standard deviation of the matrices that write to the residual stream, by kind of layer."""
    torch.manual_seed(0)
    config = NemotronHConfig(
        vocab_size=64, hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=4,
        head_dim=32, mamba_num_heads=8, mamba_head_dim=32, ssm_state_size=16, n_groups=1,
        layers_block_type=["mamba", "attention", "mlp"] * (depth // 3), rescale_prenorm_residual=True,
    )
    stds = {"out_proj": [], "o_proj": [], "down_proj": []}
    for name, parameter in NemotronHForCausalLM(config).named_parameters():
        kind = name.split(".")[-2]
        if kind in stds:
            stds[kind].append(parameter.std().item())
    return {kind: statistics.mean(values) for kind, values in stds.items()}


shallow, deep = output_stds(3), output_stds(24)
ratio = {kind: deep[kind] / shallow[kind] for kind in deep}
print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: rescale_prenorm_residual=True scales every matrix that writes to the residual stream by")
print("          1/sqrt(depth), as in GPT-2: from 3 to 24 layers each standard deviation falls to 0.35")
print("seen:     Mamba's does; attention's and the feed-forward's stay at initializer_range at any depth")
for kind, layer in (("out_proj", "Mamba"), ("o_proj", "attention"), ("down_proj", "feed-forward")):
    print(f"output:   {layer:12} 3 layers {shallow[kind]:.4f}, 24 layers {deep[kind]:.4f}, ratio {ratio[kind]:.2f}")
holds = ratio["out_proj"] < 0.4 and min(ratio["o_proj"], ratio["down_proj"]) > 0.95
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
