"""`--help` of both commands, and what it says to the words of other tools."""

import sys

import pytest
import yaml

from ablate.cli.help import answer_help, sweep_page, train_page
from ablate.paths import CONF

ROOT = CONF.parent


@pytest.mark.parametrize(("command", "page"), [("train", train_page()), ("sweep", sweep_page(ROOT))])
def test_every_option_is_shown_with_its_comment(command, page):
    text = (CONF / f"{command}.yaml").read_text()
    options = set(yaml.safe_load(text)) - {"defaults", "hydra"}
    words = " ".join(page.split())
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in options:
            assert f" {name}=" in words, name
            assert " ".join(rest.partition(" # ")[2].split()) in words
            assert " # " in rest, f"{name} has no comment"


def test_groups_are_shown_with_their_choices_the_default_first():
    lines = [line.split() for line in train_page().splitlines()]
    assert ["schedule", "cosine,", "constant,"] in [line[:3] for line in lines]
    (position,) = [line for line in lines if line[:1] == ["model/position"]]
    assert {"alibi,", "rope,"} <= set(position)


def test_studies_are_shown_with_their_questions(tmp_path):
    study = tmp_path / "experiments" / "mine"
    study.mkdir(parents=True)
    (study / "study.yaml").write_text("question: Does it\n  matter?")
    assert "mine                        Does it matter?" in sweep_page(tmp_path)
    (study / "study.yaml").write_text("{")
    assert "  mine\n" in sweep_page(tmp_path)


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("train", ["trainer.max_steps=3"], ["trainer.max_steps: training ends by tokens: budget.tokens=N"]),
        ("train", ["+trainer.precision=16", "seed=1"], ["trainer.precision: is a field of the run"]),
        ("train", ["experiment=x"], ["experiment: is called preset here"]),
        ("sweep", ["store=a", "race=true"], ["store: is called runs here", "race: is called timing here"]),
    ],
)
def test_the_words_of_others_are_told_ours(command, given, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        answer_help(command, given)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    for line, begin in zip(lines, said, strict=True):
        assert line.startswith(begin)


def test_other_words_are_left_to_hydra(capsys):
    answer_help("train", ["-m", "seed=0,1", "preset=nanogpt_shakespeare"])
    answer_help("sweep", ["experiment=small"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "said"), [("ablate train", "ablate train"), ("train.py", "python train.py")]
)
def test_help_names_the_command_that_was_typed(script, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit):
        answer_help("train", ["--help"])
    assert f"    {said} [GROUP=CHOICE" in capsys.readouterr().out
