"""`python -m ablate` from the outside: what it prints and how it exits."""

import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from test_trained import a_run

from ablate.__main__ import main
from ablate.cli.compose import Sample
from ablate.cli.train import show_sample
from ablate.measure.trained import continue_texts, open_run
from ablate.record import RunRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "abc")


def test_generate_prints_each_prompt_with_its_continuation(run, capsys):
    given = ["generate", str(run), "--prompt", "def ", "--prompt", "a", "--tokens", "9", "--seed", "4"]
    assert main([*given, "--top-k", "40"]) == 0
    options = {"temperature": 0.8, "top_k": 40, "seed": 4}
    a, b = continue_texts(open_run(run), ["def ", "a"], 9, **options)
    assert capsys.readouterr().out == f"def {a}\n\na{b}\n"
    assert main([*given, "--top-k", "40"]) == 0
    assert capsys.readouterr().out == f"def {a}\n\na{b}\n"


def test_streaming_prints_the_same(run, capsys):
    given = ["generate", str(run), "--prompt", "def ", "--tokens", "20", "--stop", "e"]
    main(given)
    whole = capsys.readouterr().out
    main([*given, "--stream"])
    assert capsys.readouterr().out == whole


def test_a_terminal_without_the_character_gets_another(run, monkeypatch):
    out = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(out, "ascii", write_through=True))
    assert main(["generate", str(run), "--prompt", "é", "--tokens", "1"]) == 0
    assert out.getvalue().startswith(b"?")
    show_sample(Console(), run, Sample(prompt="é", tokens=1))
    assert b"A sample" in out.getvalue()
    print("−0.2 é")
    assert out.getvalue().endswith(b"-0.2 ?\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere", "--prompt", "a"], "ablate generate: nowhere: there is no finished run here"),
        (["RUN", "--prompt", "a", "--top-p", "2"], "top_p 2.0: must be above 0"),
        (["RUN", "--prompt", "a", "--prompt", "b", "--stream"], "give one --prompt"),
        (["RUN", "--prompt", "a", "--restart"], "a layer of this model has none"),
        (["RUN", "--prompt", "a", "--parts", "absent.py"], "there is no file"),
        (["RUN", "--prompt", "a", "--temperature", "nan"], "temperature nan: must be"),
        (["RUN", "--prompt", "a", "--device", "cuda"], "--device cuda: torch finds none"),
    ],
)
def test_mistakes_end_with_a_line_and_2(run, given, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["generate", *(str(run) if x == "RUN" else x for x in given)]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_device_that_torch_does_not_know(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", str(run), "--prompt", "a", "--device", "foo"])
    assert "--device: invalid choice: 'foo'" in capsys.readouterr().err


def test_weights_go_out_and_come_back(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "theirs")]) == 2  # a gate of sigmoids is no LLaMA's
    assert "activation" in capsys.readouterr().err
    swiglu = a_run(tmp_path / "swiglu")
    record = RunRecord.load(swiglu)
    record.spec["model"]["ffn"]["activation"] = {"name": "silu"}
    record.save(swiglu)
    assert main(["export", str(swiglu), str(tmp_path / "theirs")]) == 0
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "parameters" in capsys.readouterr().out
    back = load_file(tmp_path / "ours" / "weights" / "model.safetensors")
    for name, tensor in load_file(swiglu / "weights" / "model.safetensors").items():
        assert torch.equal(back[name], tensor)
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2


def test_parts_are_printed(capsys):
    assert main(["parts"]) == 0
    assert "position: rope" in capsys.readouterr().out


def test_help_loads_no_torch():
    code = (
        "import sys; from ablate.__main__ import parser; print(parser().format_help()); "
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("generate", "parts", "import", "export", "evaluate"):
        assert command in said
