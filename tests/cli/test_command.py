"""`python train.py`, as a person runs it."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import ablate.cli.train as train_command
from ablate.cli.compose import ConfigError, job, plain_config
from ablate.cli.exits import EXIT_FAILED, INTERRUPTED, RunFailed, fail
from ablate.cli.sweep import sweep
from ablate.cli.train import slot_job, slot_objective, train
from ablate.data.source import NetworkError
from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]
TINY = [
    "data=text",
    "data/tokenizer=bytes",
    "model.width=16",
    "model.depth=1",
    "model.heads=2",
    "model.context=16",
    "budget.tokens=640",
    "budget.batch_tokens=64",
    "trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200)))
    return path


def run(folder: Path, text: Path, *given: str) -> subprocess.CompletedProcess[str]:
    places = [f"data.source.files=[{text}]", f"runs={folder}/runs", f"cache={text.parent}/cache"]
    flags, overrides = [g for g in given if g.startswith("-")], [g for g in given if not g.startswith("-")]
    command = [sys.executable, str(ROOT / "train.py"), *flags, *TINY, *places, *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob("runs/*/record.json"))]


def test_train_then_again_then_from_its_weights(tmp_path, text):
    first = run(tmp_path, text)
    assert first.returncode == 0, first.stderr
    assert "validation loss" in first.stdout
    assert "A sample" in first.stdout
    (record,) = records(tmp_path)
    assert record["status"] == "finished"
    assert record["metrics"]["validation/loss"] > 0
    assert "heldout" not in json.dumps(record["metrics"])

    again = run(tmp_path, text)
    assert "is finished" in again.stdout
    assert records(tmp_path) == [record]

    longer = run(
        tmp_path, text, f"init_from=runs/{record['id']}", "model.context=32", "model/position/scaling=linear"
    )
    assert longer.returncode == 0, longer.stderr
    child = next(r for r in records(tmp_path) if r["id"] != record["id"])
    assert child["spec"]["parent"] == record["id"]


def test_a_multirun_trains_every_combination(tmp_path, text):
    done = run(tmp_path, text, "-m", "model/norm=layernorm,rmsnorm", "seed=0,1", "keep=none")
    assert done.returncode == 0, done.stderr
    seen = {(r["spec"]["model"]["norm"]["name"], r["spec"]["seed"]["init"]) for r in records(tmp_path)}
    assert seen == {("layernorm", 0), ("layernorm", 1), ("rmsnorm", 0), ("rmsnorm", 1)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["+model.position.bsae=3", "model.norm.eps=-1"],
            ["model.position.bsae: unknown option", "model.norm.eps"],
        ),
        (["model/position=ropee"], ["ropee", "alibi", "rope"]),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(given, said, tmp_path, text):
    done = run(tmp_path, text, *given)
    assert done.returncode != 0
    for word in said:
        assert word in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not records(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model.heads=3"], ["width 16 is not a multiple of heads 3"]),
        (["model.attention.kv_heads=3"], ["kv_heads 3 does not divide heads 2"]),
        (["model.attention.softcap=5", "model/kernel=sdpa"], ["sdpa", "cap", "kernel=auto"]),
        (["data.source.files=[nowhere.txt]"], ["nowhere.txt"]),
        (["budget.batch_tokens=65"], ["batch_tokens 65 is not a multiple"]),
        (["parts=[mine.py]"], ["mine.py"]),
        (["init_from=runs/none"], ["runs/none"]),
        (["model.vocab=100"], ["model.vocab", "257"]),
        (
            ["+clipp=3", "rerun=no", "clip=inf", "optim.lr=inf"],
            ["clipp: unknown option", "rerun", "clip", "optim.lr: Input should be a finite number"],
        ),
        (
            ["+compile=true", "+trainer.keep=none", "keep=non", "logger.name=x", "trainer.strategy=x"],
            [
                "\ncompile: unknown option",
                "trainer.keep: unknown option",
                "\nkeep: Input should be",
                "\nlogger.name: Input should be",
                "\ntrainer.strategy: Input should be",
            ],
        ),
        (
            ["parent=abc", "trainer.cuda_graph=true", "trainer.nodes=2", "trainer.devices=3"],
            ["init_from=runs/<id>", "trainer.cuda_graph", "torchrun", "trainer.devices"],
        ),
        (
            ["model.context=2048", "budget.batch_tokens=2048", "budget.tokens=2048"],
            ["the validation split has"],
        ),
        (
            [
                "data.source.files=[letters.jsonl]",
                "data.source.split=tail",
                "data/tokenizer=characters",
                "data.tokenizer.end=false",
                "data.documents=masked",
            ],
            ["every document of the train split has a single token"],
        ),
        (["trainer.threads=1000000"], ["trainer.threads 1000000: this machine has"]),
        (["schedule.warmup=100000"], ["schedule.warmup 100000 takes 100000 of the run's 10 steps"]),
        (["seed=010", "model.width=true"], ["seed: needs a whole number", "model.width: needs a number"]),
    ],
)
def test_every_mistake_is_a_line(given, said, tmp_path, text, monkeypatch, capsys):
    """As above, without a process for each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters.jsonl").write_text("".join(f'{{"text": "{letter}"}}\n' for letter in "abcd" * 200))
    places = [f"data.source.files=[{text}]", f"cache={text.parent}/cache"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*TINY, *places, *given])
    with pytest.raises(SystemExit, match="2"):
        train(config)
    said_is = capsys.readouterr().err
    for word in said:
        assert word in said_is
    assert "Traceback" not in said_is
    assert not records(tmp_path)


def composed(text: Path, *given: str) -> DictConfig:
    places = [f"data.source.files=[{text}]", f"cache={text.parent}/cache"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*TINY, *places, *given])


def test_two_mistakes_of_a_model_are_two_lines(text, capsys):
    wrong = ["model.width=30", "model.heads=4", "data.documents=masked", "data.prefix=true"]
    with pytest.raises(SystemExit, match="2"):
        train(composed(text, *wrong))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["model", "model"]
    assert "width 30 is not a multiple" in lines[0] and "turns pairs" in lines[1]
    with pytest.raises(SystemExit, match="2"):
        train(composed(text, *wrong[2:], "budget.batch_tokens=65"))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_lightnings_word_for_bf16_is_told_ours(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        train(composed(text, "precision=bf16-mixed"))
    assert "bf16 here is mixed" in capsys.readouterr().err


def test_a_plan_shows_exact_counts(text, capsys):
    assert train(composed(text, "plan=true", "model.width=64")) is None
    total = job(composed(text, "model.width=64")).design.costs.parameters
    assert total > 1000 and f"{total:,} (" in capsys.readouterr().out


def test_a_search_gets_the_objective_and_infinity_for_a_diverged_run(text, tmp_path, monkeypatch, capsys):
    """Never a number of held-out text; without a search, a diverged run is a failure."""
    metrics = {"validation/loss": 2.5, "validation/perplexity": 12.0}
    record = RunRecord(id="a", status="finished", source_hash="c", spec={}, fingerprint={}, metrics=metrics)
    outcome = [record]
    monkeypatch.setattr(train_command, "run", lambda *_: outcome[0])
    config = composed(text, f"runs={tmp_path}")
    assert train(config) == 2.5
    assert train(composed(text, f"runs={tmp_path}", "objective=validation/perplexity")) == 12.0
    outcome[0] = record.model_copy(update={"status": "diverged", "reason": "loss was 1e9", "metrics": {}})
    with pytest.raises(SystemExit, match="1"):
        train(config)
    monkeypatch.setattr(train_command, "searching", lambda: True)
    assert train(config) == math.inf
    assert slot_objective(dict(plain_config(config)), outcome[0]) == math.inf
    with pytest.raises(SystemExit, match="2"):
        train(composed(text, "objective=heldout/loss"))


@pytest.mark.parametrize(
    ("sweeper", "reads"), [("_internal.basic_sweeper.BasicSweeper", False), ("x.Optuna", True)]
)
def test_the_basic_sweeper_is_no_search(sweeper, reads, monkeypatch):
    chosen = SimpleNamespace(mode=RunMode.MULTIRUN, sweeper={"_target_": sweeper})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: chosen)
    assert train_command.searching() is reads


def test_a_plan_trains_nothing(tmp_path, text):
    done = run(tmp_path, text, "plan=true")
    assert done.returncode == 0, done.stderr
    for word in ("parameters", "FLOP", "KV cache", "kernel", "memory", "time"):
        assert word in done.stdout
    assert not records(tmp_path)


@pytest.mark.parametrize("command", [train, sweep])
def test_no_network_is_said_in_a_line(command, monkeypatch, capsys):
    def cut(*_):
        raise NetworkError("no network")

    monkeypatch.setattr("ablate.cli.train.job", cut)
    monkeypatch.setattr("ablate.cli.composer.job", cut)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(command.__name__)
    if command is sweep:
        config.experiment, config.experiments = "llama", str(ROOT / "experiments")
    with pytest.raises(SystemExit, match="2"):
        command(config)
    assert capsys.readouterr().err == "no network\n"


def test_sweep_refuses_options_before_anything_runs(capsys):
    config = OmegaConf.load(ROOT / "conf" / "sweep.yaml")
    wrong = {"plan": "flase", "keep": "nothing", "slots": 0, "devices": 0, "strategy": "foo", "retries": -1}
    with pytest.raises(SystemExit, match="2"):
        sweep(OmegaConf.merge(config, {"experiment": "llama", **wrong}))
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == list(wrong)


def test_a_group_that_was_taken_away_is_named():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain_config(compose("train", ["~data", "~trainer"]))
    with pytest.raises(ConfigError) as wrong:
        job(config)
    assert "data.source: missing" in wrong.value.mistakes


def test_a_stop_ends_a_multirun_and_a_failure_does_not(monkeypatch):
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.MULTIRUN))
    with pytest.raises(RunFailed):
        fail("crashed", EXIT_FAILED)
    with pytest.raises(SystemExit) as stopped:
        fail("interrupted", INTERRUPTED)
    assert stopped.value.code == 130


def test_a_stop_before_the_training_is_a_line(monkeypatch, capsys):
    def tokenising(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ablate.cli.train.job", tokenising)
    with pytest.raises(SystemExit) as stopped:
        train(OmegaConf.create())
    assert stopped.value.code == 130
    assert "run this again" in capsys.readouterr().err


def test_of_the_processes_of_torchrun_the_first_has_the_lease(monkeypatch):
    """The others train beside it, and end badly where they fail: it would wait for them."""
    ended = iter(["finished", "out_of_memory"])
    monkeypatch.setattr("ablate.cli.train.perform_request", lambda *_: SimpleNamespace(status=next(ended)))
    todo = SimpleNamespace(request=lambda: None, prepared=None)
    train_command.run_beside(todo)
    with pytest.raises(SystemExit, match="1"):
        train_command.run_beside(todo)


def test_a_multirun_on_the_slots_engine(tmp_path, text):
    there = f"runs={tmp_path}/elsewhere/runs"
    done = run(
        tmp_path, text, "-m", "hydra/launcher=slots", "hydra.launcher.slots=2", "seed=0,1", "keep=none", there
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [r["status"] for r in records(tmp_path / "elsewhere")] == ["finished", "finished"]


def test_slots_plan_nothing_and_do_again_what_is_asked_for(tmp_path, text):
    places = [f"data.source.files=[{text}]", f"cache={text.parent}/cache"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain_config(compose("train", [*TINY, *places]))
    assert slot_job(dict(config), [])["source_hash"]
    assert slot_job({**config, "rerun": True}, [])["source_hash"] == ""
    with pytest.raises(ValueError, match="plan=true trains nothing"):
        slot_job({**config, "plan": True}, [])


@pytest.mark.parametrize(("asked", "slots"), [(1, 1), (2, 2), ("auto", 1)])
def test_a_run_takes_as_many_slots_as_devices(text, asked, slots):
    places = [f"data.source.files=[{text}]", f"cache={text.parent}/cache", f"trainer.devices={asked}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert slot_job(plain_config(compose("train", [*TINY, *places])), [])["devices"] == slots
