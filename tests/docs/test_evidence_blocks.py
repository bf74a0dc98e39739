"""Blocks of the studies for a GPU: small copies, stopping in time, and packing whatever happened."""

import importlib.util
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("evidence_blocks", ROOT / "benchmarks" / "evidence.py")
assert SPEC is not None and SPEC.loader is not None
blocks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(blocks)

SLEEPS = "import signal, time; signal.signal(signal.SIGINT, lambda *_: exit(130)); time.sleep(60)"


def test_every_study_for_a_gpu_is_known_and_asks_its_question():
    there = {folder.parent.name for folder in blocks.STUDIES.glob("*/study.yaml")}
    assert there == set(blocks.ORDER)
    for name in there:
        study = yaml.safe_load((blocks.STUDIES / name / "study.yaml").read_text())
        assert "budget.tokens=160000000" in study["base"] and "model/size=8M" in study["base"]


def test_a_small_copy_has_its_own_base_and_seeds(tmp_path):
    blocks.copy("llama_8m", tmp_path, ["model/size=0.2M", "budget.tokens=640", "model.depth=1"], 2)
    study = yaml.safe_load((tmp_path / "llama_8m" / "study.yaml").read_text())
    assert study["base"][-3:] == ["model/size=0.2M", "budget.tokens=640", "model.depth=1"]
    assert sum(override.startswith(("model/size=", "budget.tokens=")) for override in study["base"]) == 2
    assert study["seeds"] == 2 and "interim_seeds" not in study


def test_the_studies_themselves_are_not_made_small(capsys):
    with pytest.raises(SystemExit):
        blocks.main(["llama_8m", "--device", "cpu", "--seeds", "2"])
    assert "give a folder for them" in capsys.readouterr().err


def test_a_command_is_asked_to_stop_when_its_time_is_over():
    began = time.monotonic()
    assert blocks.within([sys.executable, "-c", SLEEPS], 2) is None
    assert time.monotonic() - began < 40  # it would have slept for a minute
    assert blocks.within([sys.executable, "-c", "raise SystemExit(1)"], 60) == 1


@pytest.mark.parametrize(("run", "code"), [("pass", 0), ("raise SystemExit(2)", 2), (SLEEPS, blocks.MORE)])
def test_a_block_freezes_runs_and_packs(run, code, tmp_path, monkeypatch):
    said = []

    def sweep(name, options, *more):
        said.append(more)
        return [sys.executable, "-c", "pass" if more else run]

    monkeypatch.setattr(blocks, "sweep", sweep)
    options = Namespace(experiments=tmp_path)
    end = time.monotonic() + blocks.STOPPING + blocks.PACKING + 4
    assert blocks.block("llama_8m", options, end) == code
    assert said == [("freeze=true",), (), ("pack=true",)]
    assert blocks.block("llama_8m", options, time.monotonic()) == blocks.MORE
    assert len(said) == 3
