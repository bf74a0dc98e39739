#!/usr/bin/env bash
# safetensors: save_model of a model with tied embeddings stores the table under the name of the head only.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0 safetensors==0.8.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import safetensors
import safetensors.torch
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    tie_word_embeddings=True,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval()
model.config.save_pretrained("by_safetensors")
safetensors.torch.save_model(model, "by_safetensors/model.safetensors", metadata={"format": "pt"})
model.save_pretrained("by_transformers")


def table(folder):
    stored = safetensors.torch.load_file(f"{folder}/model.safetensors")
    return [name for name in stored if name in ("model.embed_tokens.weight", "lm_head.weight")]


tokens = torch.arange(8)[None]
with torch.no_grad():
    loaded = LlamaForCausalLM.from_pretrained("by_safetensors").eval()
    same_logits = torch.equal(model(tokens).logits, loaded(tokens).logits)

print("version:  safetensors", safetensors.__version__, "transformers", transformers.__version__)
print("expected: both ways of saving keep the table as model.embed_tokens.weight, the name of the module that owns it")
print("seen:     save_model keeps only lm_head.weight; transformers reads both folders alike, so nothing warns a reader")
print("          that looks the table up by its name")
print("output:   save_model keeps", table("by_safetensors"))
print("          save_pretrained keeps", table("by_transformers"))
print("          logits of the first folder, read back, are bitwise equal:", same_logits)
holds = table("by_safetensors") == ["lm_head.weight"] and table("by_transformers") == ["model.embed_tokens.weight"]
raise SystemExit(None if holds and same_logits else "the behaviour has changed")
PYTHON
