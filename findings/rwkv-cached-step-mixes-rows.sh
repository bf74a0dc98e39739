#!/usr/bin/env bash
# transformers: a cached step of RWKV mixes the rows of a batch, so generate() depends on what else is in
# the batch.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import RwkvConfig, RwkvForCausalLM

torch.manual_seed(0)
model = RwkvForCausalLM(
    RwkvConfig(vocab_size=64, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=64)
).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "ln" not in name:
            parameter.normal_(std=0.3)  # a fresh model answers nearly the same to everything

tokens = torch.randint(1, 64, (2, 12))
with torch.no_grad():
    state = model(tokens[:, :6], use_cache=True).state
    step = model(tokens[:, 6:7], state=state, use_cache=True).logits

    def continuation(rows, **options):
        seen = torch.ones_like(rows)
        return model.generate(
            rows, attention_mask=seen, pad_token_id=0, max_new_tokens=6, do_sample=False, **options
        )[:, 12:]

    together, uncached = continuation(tokens), continuation(tokens, use_cache=False)
    alone = torch.cat([continuation(row[None]) for row in tokens])

print("version:  transformers", transformers.__version__, "torch", torch.__version__)
print("expected: one step of two rows gives logits of shape (2, 1, 64), and greedy decoding of two prompts of equal")
print("          length gives what each prompt gives alone")
print("seen:     the shape is (2, 2, 64) (rows are broadcast against each other), and the tokens differ")
print("output:   shape of a cached step:", tuple(step.shape))
print("          together:     ", together.tolist())
print("          one at a time:", alone.tolist())
print("          without cache:", uncached.tolist())
holds = step.shape == (2, 2, 64) and not torch.equal(together, alone) and torch.equal(uncached, alone)
raise SystemExit(None if holds else "the behaviour has changed")
PYTHON
