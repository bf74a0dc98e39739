#!/usr/bin/env bash
# transformers: fresh models with the same Mamba-2 mixer start with time steps that differ a hundredfold by
# family.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from torch.nn.functional import softplus
from transformers import (
    BambaConfig, BambaForCausalLM, FalconH1Config, FalconH1ForCausalLM, GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM, Mamba2Config, Mamba2ForCausalLM, NemotronHConfig, NemotronHForCausalLM,
)

shared = dict(vocab_size=64, hidden_size=256)
attention = dict(intermediate_size=128, num_attention_heads=2, num_key_value_heads=2)
mamba = dict(mamba_n_heads=16, mamba_d_head=32, mamba_d_state=16, mamba_n_groups=1)
torch.manual_seed(0)
models = {
    "Mamba-2": Mamba2ForCausalLM(
        Mamba2Config(**shared, num_hidden_layers=1, num_heads=16, head_dim=32, state_size=16, n_groups=1)
    ),
    "Nemotron-H": NemotronHForCausalLM(
        NemotronHConfig(
            **shared, **attention, layers_block_type=["mamba"], mamba_num_heads=16, mamba_head_dim=32,
            ssm_state_size=16, n_groups=1,
        )
    ),
    "Falcon-H1": FalconH1ForCausalLM(
        FalconH1Config(**shared, **attention, **mamba, num_hidden_layers=1, mamba_d_ssm=512)
    ),
    "Bamba": BambaForCausalLM(BambaConfig(**shared, **attention, **mamba, num_hidden_layers=1)),
    "Granite hybrid": GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(**shared, **attention, **mamba, num_hidden_layers=1, layer_types=["mamba"])
    ),
}


def time_steps(model):
    return next(softplus(p.detach()) for name, p in model.named_parameters() if name.endswith("dt_bias"))


print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: a fresh Mamba-2 mixer draws its time steps from 0.001 to 0.1 (log-uniform), whichever family holds it")
print("seen:     Mamba-2 and Nemotron-H do; Falcon-H1, Bamba and Granite hybrid start every head at softplus(1) = 1.31,")
print("          so a model trained from scratch begins with a half-life of ln 2 / (1.31 A), at most half a token (A >= 1)")
drawn, constant = [], []
for family, model in models.items():
    dt = time_steps(model)
    print(f"output:   {family:15} smallest {dt.min():.4f}, median {dt.median():.4f}, largest {dt.max():.4f}")
    (drawn if family in ("Mamba-2", "Nemotron-H") else constant).append(dt)
holds = all(dt.max() < 0.11 for dt in drawn) and all((dt - 1.3133).abs().max() < 1e-3 for dt in constant)
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
