"""Which runs of a study are compiled, and that compiled runs are what their command says."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from report_world import finished, world
from torch._dynamo.exc import TorchDynamoException
from training import prepared_for, run_of, run_spec, write_text

from ablate.cli.check import checker
from ablate.cli.composer import Composer
from ablate.cli.isolated import in_subprocess
from ablate.model.decoder import Decoder
from ablate.record import RunRecord
from ablate.study.design import compile_policy
from ablate.study.design.compile_policy import Compiling
from ablate.study.design.plan import plan
from ablate.study.design.planned import Plan
from ablate.study.design.runs import PlannedRun
from ablate.study.design.study import parse_study
from ablate.train.fit import Run, train_work
from ablate.train.speed.compile_gain import Compiled, compile_gain, measured_compile_gain

STUDY = """
question: Do experts pay?
base: [data=text, "data.source.files=[{text}]", data/tokenizer=bytes, model.width=16, model.depth=1,
       model.heads=2, model.context=16, budget.tokens=64000, budget.batch_tokens=64]
axis: [model.ffn]
baseline: dense
arms: {{dense: [], relu: [model/ffn=relu], experts: [model/ffn=mixtral]}}
seeds: 4
tune: fixed
metric: heldout/loss
equivalence_margin: 0.05
interval: paired
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Plan:
    """A plan of specifications that torch can build."""
    folder = tmp_path_factory.mktemp("compiling")
    text = write_text(folder)
    cache = folder / "cache"
    said = yaml.safe_load(STUDY.format(text=text))
    backend = SimpleNamespace(compose=Composer(cache), check=checker(cache, "cpu"))
    return plan(parse_study(said), backend)


def chosen(real: Plan, found: Compiled, run_seconds: float = 3600.0, device: str = "cpu") -> dict[str, Any]:
    """By arm; 1,000 steps of 4 seeds in 2 slots are 2,000 steps of an arm in each."""
    asked: list[str] = []
    heard: list[str] = []

    def measure(spec: dict[str, Any]) -> Compiled:
        asked.append(spec["model"]["ffn"]["name"])
        return found

    backend = SimpleNamespace(device=device, probe=lambda spec: run_seconds, compile_gain=measure)
    which = Compiling("auto", real, 2, backend, heard.append)
    corpus = real.corpora[0]
    said = {
        arm.name: which(PlannedRun("", corpus, arm.name, "test", 0, None, 0, arm.spec)) for arm in real.arms
    }
    return {**said, "asked": asked, "heard": heard}


def test_what_saves_time_is_compiled_and_experts_are_not(real):
    found = chosen(real, Compiled(eager=0.030, compiled=0.020, once=9.0))
    assert (found["dense"], found["relu"], found["experts"]) == (True, True, False)
    assert found["asked"] == ["glu"] and "20 ms then, not 30" in found["heard"][0]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (Compiled(eager=0.030, compiled=0.020, once=11.0), []),  # saves 20 s, and the compiler takes 11 twice
        (Compiled(eager=0.020, compiled=0.030, once=0.0), []),
        (Compiled(reason="InvalidCxxCompiler: none"), ["not compiled: InvalidCxxCompiler: none"]),
    ],
)
def test_what_saves_none_is_not(measured, said, real):
    found = chosen(real, measured)
    assert not (found["dense"] or found["relu"] or found["experts"])
    assert found["heard"] == said


def test_short_studies_and_gpus_are_not_measured(real):
    fast = Compiled(eager=0.030, compiled=0.020, once=1.0)
    runs = 3 * 4 / 2  # in a slot: the placebo is the third arm
    short = chosen(real, fast, run_seconds=compile_policy.ENOUGH / runs - 1)
    gpu = chosen(real, fast, device="cuda")
    assert not short["asked"] and not gpu["asked"]
    assert not (short["dense"] or gpu["dense"])


@pytest.mark.parametrize("wish", [True, False])
def test_a_wish_is_heeded(wish, real):
    which = Compiling(wish, real, 2, SimpleNamespace(), pytest.fail)
    run = PlannedRun("", real.corpora[0], "experts", "test", 0, None, 0, {})
    assert which(run) is wish


def test_the_command_of_a_compiled_run_says_so(tmp_path):
    results = world(tmp_path, lambda run: {**finished(run), "compile": run.arm == "alibi"}, seeds=2)
    says_so = results.runs["command"].str.endswith(" trainer.compile=true")
    assert says_so.any() and (says_so == (results.runs["arm"] == "alibi")).all()


def test_what_the_compiler_fails_on_is_trained_as_it_is(tmp_path, monkeypatch):
    def fail(self: Decoder) -> None:
        raise TorchDynamoException("no")

    monkeypatch.setattr(Decoder, "compile", fail)
    spec = run_spec(write_text(tmp_path))
    payload = {
        "spec": spec.model_dump(mode="json"),
        "settings": {"accelerator": "cpu", "compile": True},
        "runs": str(tmp_path / "runs"),
        "cache": str(tmp_path / "cache"),
    }
    train_work(payload)
    (folder,) = (tmp_path / "runs").iterdir()
    record = RunRecord.load(folder)
    assert record.status == "finished" and record.provenance["settings"]["compile"] is False


def test_a_measurement_that_failed_is_tried_again_and_one_that_did_not_is_kept(tmp_path, monkeypatch):
    payload = {
        "spec": run_spec(write_text(tmp_path)).model_dump(mode="json"),
        "settings": {"accelerator": "cpu"},
        "runs": str(tmp_path / "runs"),
        "cache": str(tmp_path / "cache"),
    }

    def fail(run: Run) -> Compiled:
        raise OSError("disk full\nand more")

    took = Compiled(0.2, 0.1, 3.0)
    monkeypatch.setattr("ablate.train.speed.compile_gain.measured_compile_gain", fail)
    assert compile_gain(payload) == Compiled(reason="OSError: disk full")
    monkeypatch.setattr("ablate.train.speed.compile_gain.measured_compile_gain", lambda run: took)
    assert compile_gain(payload) == took
    monkeypatch.setattr("ablate.train.speed.compile_gain.measured_compile_gain", fail)
    assert compile_gain(payload) == took


def test_a_measurement_that_is_killed_ends_no_study():
    assert list(in_subprocess(os._exit, [1, 1], str)) == ["the process that measured was killed"] * 2


def test_a_process_of_a_pool_ends_with_the_one_that_started_it():
    program = (
        "import os, time; from ablate.cli.isolated import process_pool\n"
        "print(process_pool(1).submit(os.getpid).result(), flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    try:
        starter.communicate(timeout=20)  # until nobody holds the pipe
    except subprocess.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the process still waits for work")


@pytest.mark.slow
def test_the_measurement_compiles(tmp_path):
    text = write_text(tmp_path)
    spec = run_spec(text)
    run = run_of(spec, prepared_for(spec, tmp_path), tmp_path, counts={"parameters": 7.0})
    found = measured_compile_gain(run)
    assert not found.reason and min(found.eager, found.compiled) > 0
