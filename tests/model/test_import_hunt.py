"""The import hunt: every key of a small config.json is spoiled in turn, and RoPE is written in every style.

An import must give transformers' logits, or refuse with a line. What is silently wrong must be nothing.
"""

import pytest
from support.import_hunt import MODELS, SILENT, verdicts

from ablate.cli.zoo_lacks import ALIASES
from ablate.model.hf import FAMILIES

QUICK = ("gpt2", "llama3", "qwen2_windows", "gemma3_text", "deepseek_v3", "gemma4_text", "mamba2")


def test_the_hunt_knows_every_family():
    assert {ALIASES.get(kind, kind) for kind, _ in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_silently_wrong(name, tmp_path):
    found = verdicts(name, tmp_path, some=8)
    assert [what for what, outcome in found.items() if outcome in SILENT] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_silently_wrong_wherever_one_looks(name, tmp_path):
    found = verdicts(name, tmp_path)
    assert [what for what, outcome in found.items() if outcome in SILENT] == []
