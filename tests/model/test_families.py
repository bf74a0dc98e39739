"""Every family with a table, at a tiny size: counts and logits of transformers, in and out."""

import json
from typing import Any

import pytest
import torch
from support.tiny_families import TINY, theirs

from ablate.cli.zoo_lacks import ALIASES
from ablate.model.decoder import Decoder
from ablate.model.hf import FAMILIES, export_folder, import_folder
from ablate.model.hf.config import blockers, read_config

QUICK = ("cohere2", "deepseek_v3", "falcon_mamba", "gpt_oss", "kimi_linear", "lfm3", "llama4_text")
QUICK += ("nanochat", "olmo_hybrid")
each = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)


@each
def test_logits_are_those_of_transformers(name, tokens, tmp_path):
    m = theirs(name)
    m.save_pretrained(tmp_path)
    spec, state = import_folder(tmp_path)
    decoder = Decoder(spec)
    decoder.load_state_dict(state)
    decoder.eval()
    with torch.no_grad():
        expected, mine = m(tokens, use_cache=False).logits, decoder(tokens)
    assert expected.std() > 0.1  # logits that say something
    torch.testing.assert_close(mine, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_it_is_written_as_it_was_read(name, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    m = theirs(name)
    m.save_pretrained(tmp_path / "in")
    spec, state = import_folder(tmp_path / "in")
    family = ALIASES.get(TINY[name][0], TINY[name][0])
    config: dict[str, Any] = json.loads((tmp_path / "in" / "config.json").read_text())
    assert blockers(read_config(config, FAMILIES[family]), FAMILIES[family]) == []
    decoder = Decoder(spec)
    decoder.load_state_dict(state)
    export_folder(decoder, tmp_path / "out", family, end=0)
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", dtype=torch.float32
    ).eval()
    assert {k: v.shape for k, v in back.state_dict().items()} == {
        k: v.shape for k, v in m.state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(
            back(tokens, use_cache=False).logits, m(tokens, use_cache=False).logits, atol=1e-4, rtol=0
        )
