"""`python sweep.py`, as a person runs it: a small study end to end, killed and resumed."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from rich.console import Console
from store_work import killed

from ablate.cli.compose import ConfigError
from ablate.cli.composer import Composer
from ablate.cli.mirrors import run_logger
from ablate.cli.options import SweepOptions
from ablate.cli.scoring import check_heldout, check_measures, score_missing
from ablate.cli.sweep import Sweep, options_of
from ablate.cli.sweep import sweep as swept
from ablate.cli.workspace import Workspace
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.study.design.runs import PlannedRun
from ablate.study.design.study import StudyError, load_study, parse_study
from ablate.study.results import FOLDER
from ablate.study.results import read_results as results

ROOT = Path(__file__).parents[2]
OPTIONS = OmegaConf.load(ROOT / "conf" / "sweep.yaml")
STUDY = """
question: Does position matter?
base:
  - data=text
  - data.source.files=[{text}]
  - data/tokenizer=bytes
  - model.width=16
  - model.depth=1
  - model.heads=2
  - model.context=16
  - budget.tokens=640
  - budget.batch_tokens=64
axis: [model.position]
baseline: rope
arms: {{rope: [], alibi: [model/position=alibi], none: [model/position=none]}}
placebo: true
seeds: 2
tune: fixed
metric: heldout/loss
equivalence_margin: 0.05
claims: [{{id: C16, predicate: rope < none}}]
"""
RUNS = 8
TASK = ["data=copy", "data.source.trained=[6,7]", "data.source.tested=[6,12]", "data.source.train=20"]
TASK += ["data.source.validation=10", "data.source.heldout=10"]


def asked_of(place: Path, **changes: Any) -> Sweep:
    """`sweep.py` with the options it has unless told otherwise, and these."""
    return Sweep(options(place, **changes), Console(width=200))


def options(place: Path, **changes: Any) -> SweepOptions:
    where = {"experiments": place / "experiments", "runs": place, "cache": place / "cache"}
    words = {name: str(value) if isinstance(value, Path) else value for name, value in where.items()}
    return options_of(OmegaConf.merge(OPTIONS, {"experiment": "small", **words, **changes}))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "a.txt").write_text(
        "\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200))
    )
    experiment = folder / "experiments" / "small"
    experiment.mkdir(parents=True)
    (experiment / "study.yaml").write_text(STUDY.format(text=folder / "a.txt"))
    return folder


def places(folder: Path) -> list[str]:
    return [f"experiments={folder}/experiments", f"runs={folder}/runs", f"cache={folder}/cache"]


def command(folder: Path, *given: str) -> list[str]:
    return [sys.executable, str(ROOT / "sweep.py"), *places(folder), "slots=2", *given]


def sweep(folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *given), cwd=folder, capture_output=True, text=True, timeout=600)


def refusal(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What is said of a mistake, without a process of its own."""
    with pytest.raises(SystemExit, match="2"):
        swept(OmegaConf.merge(OPTIONS, OmegaConf.from_dotlist(list(given))))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def records(folder: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("runs/*/record.json")}


def test_a_study_for_a_gpu_is_planned_without_a_guess_made_on_the_cpu(tmp_path, monkeypatch, capsys):
    """Its kernel, flex, does not train on a CPU, and how long a GPU takes a CPU does not tell."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    experiment = tmp_path / "experiments" / "small"
    experiment.mkdir(parents=True)
    wide = STUDY.replace("model.width=16", "model.width=32").format(text=tmp_path / "a.txt")
    (experiment / "study.yaml").write_text(wide)
    asked_of(tmp_path, gpus=True, plan=True).go()
    said = capsys.readouterr().out
    assert "flex" in said and "Runs" in said and "about" not in said


def test_a_study_is_planned_killed_resumed_scored_and_reported(place):
    planned = sweep(place, "experiment=small", "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "placebo" in planned.stdout
    assert not records(place)

    assert sweep(place, "experiment=small", "freeze=true").returncode == 0
    assert (place / "experiments/small/plan.json").is_file()

    first = subprocess.Popen(command(place, "experiment=small"), cwd=place, stdout=subprocess.DEVNULL)
    while len(records(place)) < 2 and first.poll() is None:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    early = {id: record["provenance"]["ended"] for id, record in records(place).items()}
    assert 2 <= len(early) < RUNS

    done = sweep(place, "experiment=small")
    assert done.returncode == 0, done.stdout + done.stderr
    after = records(place)
    assert len(after) == RUNS
    assert {r["status"] for r in after.values()} == {"finished"}
    assert {id: after[id]["provenance"]["ended"] for id in early} == early  # nothing finished was done again
    assert all(r["heldout_reads"] == 1 and r["metrics"]["heldout/loss"] > 0 for r in after.values())

    folder = place / "experiments/small"
    html, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "Does position matter?" in html
    assert "Does position matter?" in markdown
    rebuilt = sweep(place, "experiment=small", "report=true")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (folder / "report.html").read_text() == html

    again = sweep(place, "experiment=small")
    assert again.returncode == 0, again.stderr
    assert records(place) == after

    packed = sweep(place, "experiment=small", "pack=true")
    assert packed.returncode == 0, packed.stderr
    assert len(list((folder / "records").iterdir())) == 1
    elsewhere = sweep(place, "experiment=small", "runs=elsewhere")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert f"{RUNS} runs are taken up" in elsewhere.stdout and "to do" not in elsewhere.stdout
    assert not list(place.glob("elsewhere/*/weights"))
    assert (folder / "report.md").read_text() == markdown
    shutil.rmtree(folder / "records")

    written = sweep(place, "experiment=small", "samples=true")
    assert written.returncode == 0, written.stderr
    kept = results(folder).samples
    assert kept is not None and sorted(kept["arm"].unique()) == ["alibi", "none", "placebo", "rope"]
    assert kept["prompt"].tolist() == ["Document"] * 4  # half of a context, with which all documents begin
    assert kept["text"].str.len().gt(0).all()
    assert (folder / "report.html").read_text().count("<details><summary>Sample: Document</summary>") == 1

    loose = sweep(place, "compare=runs/*")
    assert loose.returncode == 0, loose.stderr
    for word in ("position.name=alibi", "heldout/loss", "Exploratory"):
        assert word in loose.stdout.replace("\n", "")


@pytest.mark.parametrize("ensemble", [pytest.param("4", marks=pytest.mark.slow), "auto"])
def test_runs_trained_as_one_are_the_runs_of_the_study(ensemble, place, tmp_path):
    """Seeds of an arm, and those of the placebo with those of the baseline: the records are found by the same
    ids. With `auto`, the cache keeps what was measured of each architecture."""
    options = [f"experiments={place}/experiments", f"cache={tmp_path}/cache", f"ensemble={ensemble}"]
    done = sweep(tmp_path, "experiment=small", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert len(found) == RUNS and {r["status"] for r in found.values()} == {"finished"}
    stacked = [r["provenance"]["replicas"] for r in found.values() if "replicas" in r["provenance"]]
    measured = [json.loads(p.read_text()) for p in tmp_path.glob("cache/ensembles/*.json")]
    if ensemble == "auto":
        assert len(measured) == 3 and all(m["ratio"] > 0 for m in measured)
    else:
        assert stacked and max(stacked) == 4 and not measured
    if len(records(place)) < RUNS:  # this test is run by itself
        assert sweep(place, "experiment=small").returncode == 0
    for id, alone in records(place).items():
        assert found[id]["metrics"] == pytest.approx(alone["metrics"], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ensemble=0", "ensemble: auto, off, or the most runs"),
        ("compile=fast", "compile: auto, true or false, not 'fast'"),
        ("runs=runs/*", "runs: is the folder of all runs; to compare some of them, use compare='runs/*'"),
        ("compare=runs/*", "compare: compares any finished runs, without experiment"),
        ("nothing=1", "nothing: unknown option"),
    ],
)
def test_a_wrong_option_is_refused(option, said, place, capsys):
    assert said in refusal(capsys, *places(place), "experiment=small", option)


@pytest.mark.parametrize(("stale", "counts"), [("rerun", False), ("keep", True)])
def test_runs_of_another_version_of_the_code_count_where_that_is_asked(stale, counts, tmp_path):
    workspace = Workspace(options(tmp_path, stale=stale))
    spec = workspace.compose(["model.width=16"])
    run = PlannedRun("", "base", "rope", "test", 0, None, 1, spec)
    fingerprint = {"source": "1", "tokenizer": "2"}
    run = replace(run, id=RunSpec.model_validate(spec).id(fingerprint))
    plain = RunSpec.model_validate(spec).model_dump(mode="json")
    made = {"id": run.id, "spec": plain, "fingerprint": fingerprint, "source_hash": "0ther"}
    for status, known in (("crashed", False), ("finished", counts)):
        RunRecord(**made, status=status).save(workspace.store.folder(run.id))
        assert workspace.has_outcome(run) is known


def test_folders_of_any_name_hold_text_and_runs(tmp_path, monkeypatch, capsys):
    """Apostrophes, accents, commas and semicolons, which mean something to the command line's grammar."""
    place = tmp_path / "it's é; a, b"
    experiment = place / "experiments" / "small"
    experiment.mkdir(parents=True)
    (place / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    (experiment / "study.yaml").write_text(STUDY.format(text="a.txt"))
    monkeypatch.chdir(place)
    asked_of(place, plan=True).go()
    assert "Runs" in capsys.readouterr().out and (place / "cache").is_dir()


def test_numbers_stand_where_the_weights_that_gave_them_are_gone(tmp_path):
    workspace = Workspace(options(tmp_path))
    run = PlannedRun("0" * 12, "base", "rope", "test", 0, None, 1, {})
    made = {"id": run.id, "status": "finished", "source_hash": "c0de", "spec": {}, "fingerprint": {}}
    RunRecord(**made, measures={"heldout": "earlier"}).save(workspace.store.folder(run.id))
    with (console := Console(width=200)).capture() as said:
        score_missing(["heldout"], [run], workspace, console)
    assert said.get().strip() == "1 runs keep what an earlier version measured: their weights are not here"


def test_two_things_to_do_instead_of_a_study_are_refused(place, capsys):
    said = refusal(capsys, *places(place), "experiment=small", "report=true", "timing=true")
    assert said.startswith("report=true and timing=true exclude each other")
    assert len(said.splitlines()) == 1


def test_a_frozen_study_may_use_the_earlier_name_of_a_preset(place):
    composer = Composer(place / "cache")
    chosen = ["nanogpt_shakespeare", f"data.source.files=[{place / 'a.txt'}]"]
    specs = [composer([f"{name}={chosen[0]}", *chosen[1:]]) for name in ("experiment", "preset")]
    assert specs[0] == specs[1]


def test_a_long_name_of_an_arm_is_no_tag_that_wandb_refuses(place):
    asked = asked_of(place, wandb={"mirror": True, "project": "p", "entity": None})
    arm = "+".join(["layernorm_nobias"] * 5)
    logger = run_logger(asked.options, PlannedRun("", "base", arm, "test", 0, None, 0, {}))
    assert (logger.config["arm"], logger.job_type) == (arm, "test")
    assert logger.run_name == f"small base {arm} seed 0"
    assert logger.tags[0] == f"arm:{arm}"[:64]


def test_a_misspelt_choice_is_told_the_others(tmp_path):
    with pytest.raises(ConfigError, match=r"no such choice \(did you mean rmsnorm\?\); there are dyt"):
        Composer(str(tmp_path))(["model/norm=rmsnrom"])


def test_a_study_says_what_it_would_not_heed(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.log_every: does not affect results"):
        Composer(str(tmp_path))(["model.width=16", "trainer.log_every=4"])


@pytest.mark.parametrize(
    ("change", "node", "said"),
    [
        (("heldout/loss", "heldoutt/loss"), {}, "heldoutt/loss: no measure gives it"),
        (("equivalence_margin: 0.05", "measures: [stabilty/x]"), {}, "stabilty/x: no measure gives it"),
        (("heldout/loss", "heldout/los"), {}, r"there are heldout/loss, heldout/perplexity"),
        (("heldout/loss", "validation/los"), {}, r"there are validation/loss, validation/perplexity"),
        (
            ("equivalence_margin: 0.05", "equivalence_margin: 0.05\nmeasures: [length/early/4]"),
            {},
            r"there are .*length/early/\*x",
        ),
        (
            (
                "equivalence_margin: 0.05",
                "equivalence_margin: 0.05\nmeasures: [length/early/4x, counts/active]",
            ),
            {},
            None,
        ),
        (("", ""), {"keep": "none"}, "keep=none: heldout is measured on kept weights"),
        (("heldout/loss", "validation/loss"), {"keep": "none"}, None),
    ],
)
def test_every_number_has_something_that_gives_it(change, node, said, place):
    asked = options(place, **node)
    study = parse_study(yaml.safe_load(STUDY.format(text="a.txt").replace(*change)))
    if said is None:
        check_measures(study, asked)
    else:
        with pytest.raises(ConfigError, match=said):
            check_measures(study, asked)


@pytest.mark.parametrize(
    ("metric", "text", "said"),
    [
        ("heldout/loss", ["data.source.heldout=0"], "the heldout split has 0 tokens"),
        ("heldout/loss", [], None),
        ("validation/loss", ["data.source.heldout=0"], None),
        ("heldout/loss", TASK, "the longest example of the heldout split has 26 tokens"),
        ("skill/exact", TASK, None),
    ],
)
def test_held_out_text_that_cannot_be_read_is_refused_before_the_runs(metric, text, said, place):
    workspace = Workspace(options(place))
    study = parse_study(yaml.safe_load(STUDY.format(text=place / "a.txt").replace("heldout/loss", metric)))
    base = study.base[3:] if text is TASK else study.base
    arm = SimpleNamespace(name="rope", spec=workspace.compose([*base, *text]))
    planned = SimpleNamespace(study=study, arms=[arm])
    if said is None:
        check_heldout(planned, workspace)
    else:
        with pytest.raises(ConfigError, match=said):
            check_heldout(planned, workspace)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("alibi: [model/position=alibi]", "alibi: [model/position=alibi, model.depth=2]"), "model.depth"),
        (("none: [model/position=none]", "same: [model/position=rope]"), "same"),
        (("none: [model/position=none]", "none: [model/position=nope]"), "nope"),
        (("seeds: 2", "seedz: 2"), "seedz"),
        (("baseline: rope", "baseline: ropee"), "ropee"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(change, said, place, tmp_path, capsys):
    experiment = tmp_path / "experiments" / "small"
    experiment.mkdir(parents=True)
    text = STUDY.format(text=place / "a.txt")
    assert change[0] in text
    (experiment / "study.yaml").write_text(text.replace(*change))
    assert said in refusal(capsys, *places(tmp_path), "experiment=small", f"cache={place}/cache")
    assert not records(tmp_path)


def test_a_measure_of_ones_own_is_known_by_its_file(place, tmp_path, own_parts):
    file = tmp_path / "mine.py"
    file.write_text("""
from ablate.registry import measure


@measure("mine", paper="ours")
class Mine:
    def __init__(self): ...
""")
    own = STUDY.format(text=place / "a.txt").replace(
        "equivalence_margin: 0.05", "equivalence_margin: 0.05\nmeasures: [mine/size]"
    )
    study = parse_study(yaml.safe_load(own.replace("- data=text", f"- data=text\n  - parts=[{file}]")))
    assert asked_of(place).planned(study).study.measures == ("mine/size",)


@pytest.mark.parametrize("asked", ["report", "timing", "samples"])
def test_what_is_made_of_results_needs_a_study_that_has_run(asked, place, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/study.yaml").write_text(STUDY.format(text=place / "a.txt"))
    with pytest.raises(ConfigError, match=f"{asked}: .* has no results yet"):
        asked_of(place, experiment="new", experiments=str(tmp_path), **{asked: True}).go()


@pytest.mark.parametrize("asked", ["--config-dir", "hydra.searchpath"])
def test_groups_of_one_s_own_work_in_a_study(asked, place, tmp_path):
    own = tmp_path / "it's mine"
    (own / "model" / "ffn").mkdir(parents=True)
    (own / "model" / "ffn" / "wider.yaml").write_text("defaults: [geglu, _self_]\nratio: 3.0\n")
    (tmp_path / "small").mkdir()
    text = STUDY.format(text=place / "a.txt").replace("[model.position]", "[model.ffn]")
    text = text.replace(
        "alibi: [model/position=alibi], none: [model/position=none]", "wider: [model/ffn=wider]"
    )
    (tmp_path / "small" / "study.yaml").write_text(re.sub("claims: .*", "", text))
    quoted = str(own).replace("'", r"\'")
    given = ["--config-dir", str(own)] if asked == "--config-dir" else [f"{asked}=['file://{quoted}']"]
    words = [*given, *places(place)[1:], f"experiments={tmp_path}", "experiment=small", "plan=true"]
    command = [sys.executable, str(ROOT / "sweep.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "wider" in done.stdout
    without = subprocess.run(command[:2] + command[-4:], cwd=tmp_path, capture_output=True, text=True)
    assert without.returncode == 2 and "model/ffn=wider: there is no such choice" in without.stderr


def test_a_scoring_process_that_is_killed_is_a_line(place, tmp_path, monkeypatch, capsys):
    record = RunRecord(id="a", status="finished", source_hash="c", spec={}, fingerprint={})
    record.save(tmp_path / "a")
    monkeypatch.setattr("ablate.measure.score.score_work", killed)
    workspace = Workspace(options(place, runs=str(tmp_path), slots=1))
    study = parse_study(yaml.safe_load(STUDY.format(text=place / "a.txt")))
    run = PlannedRun("a", "base", "rope", "test", 0, None, 0, workspace.compose(list(study.base)))
    score_missing(["heldout"], [run], workspace, Console())
    assert "a scoring process was killed" in capsys.readouterr().out
    assert RunRecord.load(tmp_path / "a") == record


def test_a_full_disk_is_a_line_and_1(monkeypatch, capsys):
    def full(pattern, console):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr("ablate.cli.compare_runs.compare_runs", full)
    with pytest.raises(SystemExit) as ended:
        swept(OmegaConf.merge(OPTIONS, {"compare": "runs/*"}))
    assert ended.value.code == 1
    assert "report.html: the disk is full (No space left" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_damaged_results_and_studies_are_named(text, tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "study.json").write_text(text)
    with pytest.raises(ValueError, match=r"study\.json is damaged .*; restore it, or run the study again"):
        results(tmp_path)
    (tmp_path / "study.yaml").write_bytes(b"question: D\xe9j\xe0 vu?")
    with pytest.raises(StudyError, match=r"study\.yaml: byte 11 is not UTF-8"):
        load_study(tmp_path / "study.yaml")


def test_a_missing_experiment_names_those_there_are(place):
    refused = sweep(place, "experiment=smal")
    assert refused.returncode == 2
    assert "there are small" in refused.stderr
