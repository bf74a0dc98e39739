"""`ablate check`: each contract is found broken where it is broken, and kept where it is kept."""

import json
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import small
from torch import Tensor, nn

from ablate.__main__ import main
from ablate.cli.contracts import Judge, Subject
from ablate.model.decoder import Decoder

V, C = 11, 16


class Small(nn.Module):
    """Causal sums of embeddings; faults are planted by name."""

    def __init__(self, fault: str = "", size: float = 1e-4):
        super().__init__()
        torch.manual_seed(0)
        self.fault, self.size = fault, size
        self.embedding, self.mix, self.head = nn.Embedding(V, C), nn.Linear(C, C), nn.Linear(C, V)
        self.idle = nn.Parameter(torch.ones(3)) if fault == "gradients" else None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + torch.tanh(self.mix(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None].to(x.dtype)))
        if self.fault == "no look-ahead":
            x = x + self.size * x.roll(-1, 1)
        if self.fault == "rows apart":
            x = x + self.size * x.mean(0, keepdim=True)
        if self.fault == "deterministic":
            x = x + self.size * torch.randn(x.shape).to(x.dtype)
        if self.fault == "tokens act":
            x = torch.where(torch.arange(x.shape[1])[:, None] == 5, torch.zeros_like(x), x)
        if self.fault == "finite logits":
            x = torch.where(torch.arange(x.shape[1])[:, None] == 5, torch.full_like(x, torch.inf), x)
        if self.fault == "bf16" and x.dtype == torch.bfloat16:
            x = x.square()
        return self.head(x)


def broken(module: nn.Module, vocab: int = V) -> list[str]:
    subject = Subject(module.double(), vocab, 2, 32)
    return [c.name for c in Judge(subject).contracts() if c.verdict == "broken"]


def test_a_sound_model_keeps_all():
    assert broken(Small()) == []


@pytest.mark.parametrize("fault", ["no look-ahead", "rows apart", "gradients", "tokens act", "bf16"])
def test_a_planted_fault_is_found_and_no_other(fault):
    assert broken(Small(fault)) == [fault]


def test_chance_and_infinity_are_found():
    assert "deterministic" in broken(Small("deterministic"))
    assert "finite logits" in broken(Small("finite logits"))


@pytest.mark.parametrize("name", ["softmax", "gated_deltanet", "mamba2", "mla"])
def test_our_own_models_keep_all(name):
    position = "rope" if name in ("softmax", "mla") else "none"
    assert broken(Decoder(small(attention=name, position=position)).init_parameters(0), 50) == []


def test_a_model_of_transformers_and_its_cache(tmp_path: Path, capsys):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50, max_position_embeddings=64,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    assert main(["check", str(tmp_path), "--json"]) == 0
    found = {c["name"]: c["verdict"] for c in json.loads(capsys.readouterr().out)}
    assert set(found.values()) == {"kept"} and "cached is whole" in found


def test_a_cache_is_handed_back_by_its_own_name(tmp_path: Path, capsys):
    """Mamba takes `past_key_values`, and ignores it."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=V, hidden_size=C, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    assert main(["check", str(tmp_path), "--json"]) == 0
    found = {each["name"]: each["verdict"] for each in json.loads(capsys.readouterr().out)}
    assert found["cached is whole"] == "kept"


def test_from_a_file(tmp_path: Path, capsys):
    file = tmp_path / "model.py"
    file.write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            class Leaky(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

                def forward(self, tokens):
                    x = self.embedding(tokens)
                    return self.head(x + 1e-4 * x.flip(1).cumsum(1).flip(1))
        """)
    )
    assert main(["check", f"{file}:Leaky"]) == 1
    assert "no look-ahead" in capsys.readouterr().out
    assert main(["check", f"{file}:Nobody"]) == 2
    assert "Nobody: AttributeError" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nothing")]) == 2
    assert "give FILE.py:NAME" in capsys.readouterr().err
    assert main(["check", f"{file}:Leaky", "--vocab", "100"]) == 2
    assert "raises IndexError" in capsys.readouterr().err
