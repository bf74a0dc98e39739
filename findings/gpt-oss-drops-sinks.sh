#!/usr/bin/env bash
# transformers: GPT-OSS refuses sdpa because of its sinks, but drops them silently if sdpa is registered by
# another name.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, GptOssConfig, GptOssForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

torch.manual_seed(0)
model = GptOssForCausalLM(
    GptOssConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, num_local_experts=4, num_experts_per_tok=2,
    )
).eval()
sinks = [parameter for name, parameter in model.named_parameters() if name.endswith("sinks")]
tokens = torch.randint(0, 64, (1, 8))
AttentionInterface.register("mine", sdpa_attention_forward)
AttentionMaskInterface.register("mine", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@torch.no_grad()
def logits(implementation):
    model.set_attn_implementation(implementation)
    return model(tokens).logits


with torch.no_grad():
    for sink in sinks:
        sink.normal_()
eager, mine = logits("eager"), logits("mine")
try:
    logits("sdpa")
    refused = False
except ValueError:
    refused = True
with torch.no_grad():
    for sink in sinks:
        sink.fill_(-1e9)  # exp(-1e9) = 0: a sink that takes nothing
without = logits("eager")

print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: an attention function that is handed sinks and cannot use them raises, since the model refuses it under")
print("          its built-in name")
print("seen:     the same function under another name is accepted and gives the logits of a model without sinks")
print("output:   'sdpa' refused:", refused)
print("          largest difference of 'mine' to eager with sinks:   ", (mine - eager).abs().max().item())
print("          largest difference of 'mine' to eager without sinks:", (mine - without).abs().max().item())
holds = refused and (mine - eager).abs().max() > 0.01 and (mine - without).abs().max() < 1e-5
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
