"""Weights & Biases: what runs and studies send, against a server of our own, and what happens without one."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from report_world import world
from training import CONTEXT, MOE, QUIET, ROWS, curve, prepared_for, run_spec, write_text
from wandb_stub import ENTITY, Stub, environment, serve

from ablate.measure.score import after
from ablate.model.measure import measure_model
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report import dashboard
from ablate.study.results import read_results
from ablate.train.fit import fit
from ablate.train.monitor import loggers
from ablate.train.request import RunRequest
from ablate.train.settings import LoggerSpec

CONFIG = {"study": "position", "corpus": "text", "arm": "alibi", "seed": 3, "role": "test"}
LOGGER = LoggerSpec(name="wandb", project="ablations", group="position", tags=("arm:alibi",), config=CONFIG)
Enter = Callable[..., None]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serve() as stub:
        yield stub


@pytest.fixture
def enter(stub, tmp_path, monkeypatch) -> Iterator[Enter]:
    """Go where the stub is W&B, with a key or without. The client reads the environment anew."""
    import wandb

    def go(key: bool = True) -> None:
        wandb.teardown()
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name, value in environment(stub, tmp_path, key).items():
            monkeypatch.setenv(name, value)

    monkeypatch.setattr(loggers.Unreachable, "noticed", False)
    yield go
    wandb.teardown()  # while its own variables are there
    monkeypatch.undo()


def train(spec: RunSpec, runs: Path, text: Path, **options) -> RunRecord:
    return fit(
        spec, prepared_for(spec, text.parent), QUIET.model_copy(update={"logger": LOGGER}), runs, **options
    )


def offline_file(folder: Path) -> Path:
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return file


def wandb_command(*words: str) -> str:
    command = [str(Path(sys.executable).parent / "wandb"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def same_curve(rows: list[dict], folder: Path) -> None:
    """W&B's rows hold our curve: the columns under their names, and the last look at validation."""
    sent = pd.DataFrame(rows)
    ours = curve(folder)
    for column in ("loss", "lr", "grad_norm"):
        there = sent.dropna(subset=[f"train/{column}"])
        assert there["step"].tolist() == ours["step"].tolist()
        assert there[f"train/{column}"].tolist() == pytest.approx(ours[column].tolist())
    assert sent["tokens"].tolist() == (sent["step"] * CONTEXT * ROWS).tolist()
    looks = sent.dropna(subset=["validation/loss"]).set_index("step")["validation/loss"]
    assert looks.to_dict() == pytest.approx(ours.set_index("step")["validation_loss"].dropna().to_dict())


# ----------------------------------------------------------------------------------------- runs


def test_a_run_sends_its_curve_and_its_place_in_the_study(stub, enter, text, tmp_path):
    enter()
    spec = run_spec(text, {"ffn": MOE}, steps=4)
    record = train(spec, tmp_path / "runs", text)
    assert record.status == "finished"
    run = stub.runs()[record.id]
    assert (run["groupName"], run["project"], run["tags"]) == ("position", "ablations", ["arm:alibi"])
    assert {key: run["config"][key] for key in CONFIG} == CONFIG
    assert run["config"]["model"]["width"] == spec.model.width
    rows = stub.history(record.id)
    same_curve(rows, tmp_path / "runs" / record.id)
    flops = measure_model(spec.model).training_flops
    assert [row["flops"] for row in rows] == pytest.approx([row["tokens"] * flops for row in rows])
    loads = [row[f"train/expert_load/layer_{n}"] for row in rows[:4] for n in range(spec.model.depth)]
    assert all(1 <= load <= MOE["experts"] for load in loads)
    summary = stub.summary(record.id)
    assert (summary["status"], summary["diverged"]) == ("finished", 0)
    assert summary["speed/tokens_per_second"] == pytest.approx(record.speed["tokens_per_second"])
    assert summary["validation/loss"] == pytest.approx(record.metrics["validation/loss"])
    assert stub.strangers == []


def test_heldout_numbers_reach_the_summary_once_scored(stub, enter, text, tmp_path):
    enter()
    spec = run_spec(text, steps=4)
    logger = LOGGER.model_copy(update={"run_name": "position alibi seed 3", "job_type": "test"})
    settings = QUIET.model_copy(update={"logger": logger})
    record = fit(spec, prepared_for(spec, text.parent), settings, tmp_path / "runs")
    run = stub.runs()[record.id]
    assert (run["displayName"], run["jobType"]) == ("position alibi seed 3", "test")
    assert run["config"]["source_hash"] == record.source_hash
    assert run["config"]["counts"] == record.counts and run["config"]["kernel"] == record.kernel
    assert not any(name.startswith("heldout") for name in stub.summary(record.id))
    rows = len(stub.history(record.id))
    request = RunRequest(
        spec=spec, settings=settings, runs=tmp_path / "runs", cache=text.parent, measures=("heldout",)
    )
    after(tmp_path / "runs" / record.id, request.payload())
    scored = RunRecord.load(tmp_path / "runs" / record.id)
    summary = stub.summary(record.id)
    assert summary["heldout/loss"] == pytest.approx(scored.metrics["heldout/loss"])
    assert summary["validation/loss"] == pytest.approx(record.metrics["validation/loss"])
    assert summary["status"] == "finished" and len(stub.history(record.id)) == rows
    assert stub.strangers == []


def test_the_trap_for_strangers_works(enter, stub):
    enter()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen("https://api.wandb.invalid/graphql", timeout=5)
    assert stub.strangers == ["api.wandb.invalid:443"]


def test_without_a_key_a_run_stays_on_disk_until_it_is_synced(stub, enter, text, tmp_path):
    enter(key=False)
    record = train(run_spec(text, steps=4), tmp_path / "runs", text)
    assert stub.asked == []
    folder = tmp_path / "runs" / record.id
    file = offline_file(folder)
    same_curve([row["item"] for row in kept(file, "history")], folder)

    enter()
    wandb_command("sync", str(file.parent))
    run = stub.runs()[record.id]
    assert (run["groupName"], run["config"]["arm"], run["config"]["seed"]) == ("position", "alibi", 3)
    same_curve(stub.history(record.id), folder)
    assert stub.strangers == []


def kept(file: Path, kind: str) -> list[dict]:
    """The entries of one kind in the file of a run that is kept on disk, as W&B's own command reads it."""
    lines = [json.loads(line) for line in wandb_command("leet", "inspect", "--json", str(file)).splitlines()]
    return [line[kind] for line in lines if line["type"] == kind]


def test_the_file_of_an_offline_run_says_whose_it_is_and_what_it_cost(
    stub, enter, text, tmp_path, monkeypatch
):
    """WANDB_MODE=offline, although there is a key and a server."""
    enter()
    monkeypatch.setenv("WANDB_MODE", "offline")
    spec = run_spec(text, data=with_sets(text), steps=4)
    named = {"run_name": "position text alibi seed 3", "job_type": "test"}
    settings = QUIET.model_copy(update={"logger": LOGGER.model_copy(update=named)})
    record = fit(spec, prepared_for(spec, text.parent), settings, tmp_path / "runs")
    assert stub.asked == []
    file = offline_file(tmp_path / "runs" / record.id)
    (run,) = kept(file, "run")
    assert (run["run_id"], run["project"]) == (record.id, "ablations")
    said = (run["display_name"], run["run_group"], run["job_type"], run["tags"])
    assert said == ("position text alibi seed 3", "position", "test", ["arm:alibi"])
    config = {name: value for entry in kept(file, "config") for name, value in entry["update"].items()}
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert config["counts"]["parameters"] == record.counts["parameters"] > 0
    assert config["counts"]["training_flops"] == record.counts["training_flops"] > 0
    assert (config["kernel"], config["device"], config["devices"]) == (record.kernel, "cpu", 1)
    assert (config["source_hash"], config["fingerprint"]) == (record.source_hash, record.fingerprint)
    numbers = {name for row in kept(file, "history") for name in row["item"] if not name.startswith("_")}
    assert {name.split("/")[0] for name in numbers if "/" in name} == {"train", "validation", "speed"}
    assert {name for name in numbers if "/" not in name} == {"step", "tokens", "flops"}
    sets = {f"validation/{name}/loss" for name in ("again", "own", "macro")}
    assert {name for name in numbers if name.count("/") == 2} == sets


def test_a_run_of_a_disabled_mode_leaves_nothing(stub, enter, text, tmp_path, monkeypatch):
    enter()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    record = train(run_spec(text, steps=2), tmp_path / "runs", text)
    assert record.status == "finished"
    assert stub.asked == [] and not (tmp_path / "runs" / record.id / "wandb").exists()


def with_sets(text: Path) -> dict:
    source = {"name": "text", "files": [str(text)]}
    return {"source": source, "tokenizer": "bytes", "sets": {"own": source, "again": source}}


def test_a_run_that_diverges_says_so(stub, enter, text, tmp_path):
    enter()
    optim = {"name": "adamw", "lr": 1e4}
    record = train(run_spec(text, steps=30, optim=optim, clip=None), tmp_path / "runs", text)
    assert record.status == "diverged"
    assert (stub.summary(record.id)["status"], stub.summary(record.id)["diverged"]) == ("diverged", 1)


def test_a_server_that_fails_costs_the_first_run_of_a_worker_one_wait(
    stub, enter, text, tmp_path, monkeypatch, caplog
):
    enter()
    stub.mood = "broken"
    monkeypatch.setattr(loggers, "CONNECT", 1.0)
    first = train(run_spec(text, steps=4), tmp_path / "runs", text)
    asked = len(stub.asked)
    assert asked > 0
    second = train(run_spec(text, steps=4, seed=1), tmp_path / "runs", text)
    assert len(stub.asked) == asked
    assert caplog.text.count("mirrored on disk instead") == 1
    for record in (first, second):
        assert record.status == "finished"
        assert RunRecord.load(tmp_path / "runs" / record.id) == record
        assert len(curve(tmp_path / "runs" / record.id)) == 4
        assert offline_file(tmp_path / "runs" / record.id).stat().st_size > 0


def test_a_server_that_falls_silent_holds_a_run_up_for_a_bound(stub, enter, text, tmp_path, monkeypatch):
    enter()
    monkeypatch.setattr(loggers, "FLUSH", 1.0)

    def silence(progress: object) -> None:
        stub.mood = "silent"

    record = train(run_spec(text, steps=4), tmp_path / "runs", text, on_progress=silence)
    assert stub.mood == "silent"
    assert record.status == "finished"
    assert len(curve(tmp_path / "runs" / record.id)) == 4


# --------------------------------------------------------------------------------------- studies


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "position"
    folder.mkdir()
    claim = {
        "id": "C16",
        "predicate": "rope < none",
        "published": {"effect": -0.1, "source": "arXiv:2104.09864"},
    }
    world(folder, question="Which | is <b>best</b>?", claims=[claim])
    return folder


def test_a_report_and_a_workspace_go_through(stub, enter, study):
    enter()
    made = dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    (report,) = stub.views("runs")
    (view,) = stub.views("project-view")
    assert made.report.startswith(f"{stub.url}/{ENTITY}/ablations/reports/")
    assert made.workspace.startswith(f"{stub.url}/{ENTITY}/ablations?nw=")
    assert any(made.report in line for line in made.said)
    assert report["entityName"] == view["entityName"] == ENTITY

    texts = [block["content"] for block in report["spec"]["blocks"] if block["type"] == "markdown-block"]
    whole = "\n".join(texts)
    for words in ("| alibi | better |", "| none | worse |", "## Paired differences", "| C16 |", "Answer"):
        assert words in whole
    assert "Which \\| is &lt;b&gt;best&lt;/b&gt;?" in whole
    assert "https://arxiv.org/abs/2104.09864" in whole
    (grid,) = (block for block in report["spec"]["blocks"] if block["type"] == "panel-grid")
    (runset,) = grid["metadata"]["runSets"]
    assert "project" not in runset
    check_runs(runset)
    check_runs(view["spec"]["section"]["runSets"][0])
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    drawn = {(panel.get("xAxis"), *panel.get("metrics", [])) for panel in panels}
    for x in ("tokens", "flops"):
        assert {(x, "train/loss"), (x, "validation/loss")} <= drawn
    assert {("step", "train/lr"), ("step", "train/grad_norm"), (None, "summary_metrics.diverged")} <= drawn
    bands = [panel for panel in panels if panel.get("groupArea") == "stddev"]
    assert {panel["groupBy"] for panel in bands} == {"arm.value"}
    assert any(panel.get("metricRegex") == "train/expert_load/.*" for panel in panels)
    assert ("summary:speed/tokens_per_second", "summary:validation/loss") in {
        (panel.get("xAxis"), panel.get("yAxis")) for panel in panels
    }
    assert stub.strangers == []

    dashboard.publish(study, judge_study(read_results(study)), "ablations", ENTITY, study / "runs")
    again, view_again = stub.views("runs")[-1], stub.views("project-view")[-1]
    assert made.report.endswith(f"--{again['id']}")
    assert view_again["name"] == view["name"]
    assert view_again["id"]


def check_runs(runset: dict) -> None:
    """The test runs of the study, by arm."""
    wanted = {(f["key"]["name"], f["value"]) for f in runset["filters"]["filters"]}
    assert wanted == {("group", "position"), ("role", "test")}
    assert runset["grouping"] == [{"section": "config", "name": "arm.value"}]


def test_what_panels_draw_is_what_runs_send(stub, enter, study, text, tmp_path):
    enter()
    record = train(run_spec(text, steps=2), tmp_path / "runs", text)
    dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    rows, summary = stub.history(record.id), stub.summary(record.id)
    sections = stub.views("project-view")[0]["spec"]["section"]["panelBankConfig"]["sections"]
    for section in sections:
        for config in (panel["config"] for panel in section["panels"]):
            names = [*config.get("metrics", []), config["xAxis"]] if "xAxis" in config else config["metrics"]
            names += [config["yAxis"]] if "yAxis" in config else []
            kept = [name.removeprefix("summary_metrics.").removeprefix("summary:") for name in names]
            summed = all(name in summary for name in kept)
            assert summed
            if not any(name.startswith("summary") for name in names):
                assert any(all(name in row for name in kept) for row in rows)


def test_the_panel_of_sets_draws_each_set_and_not_the_loss_of_all(stub, enter, study, text, tmp_path):
    enter()
    record = train(run_spec(text, data=with_sets(text), steps=2), tmp_path / "runs", text)
    dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    sent = {name for row in stub.history(record.id) for name in row}
    (view,) = stub.views("project-view")
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    (panel,) = (section["panels"][0]["config"] for section in sections if "sets" in section["name"])
    assert panel["xAxis"] in sent and panel["useMetricRegex"]
    drawn = {name for name in sent if re.fullmatch(panel["metricRegex"], name)}
    assert drawn == {f"validation/{name}/loss" for name in ("own", "again", "macro")}


def test_the_client_reads_the_workspace_and_the_report_that_it_was_sent(stub, enter, study):
    """By its own schema, so that every section and panel is one that it knows."""
    from wandb_workspaces.reports.v2.internal import Spec
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View, WorkspaceViewspec

    enter()
    dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    (view,) = stub.views("project-view")
    spec = WorkspaceViewspec.model_validate(view["spec"])
    again = Workspace._from_model(
        View(entity=ENTITY, project="ablations", display_name="", name=view["name"], id="V", spec=spec)
    )
    titles = {panel.title for section in again.sections for panel in section.panels}
    assert {"Validation loss of each set", "Share of runs that diverged", "Speed against loss"} <= titles
    assert len(titles) == 11
    (report,) = stub.views("runs")
    blocks = Spec.model_validate(report["spec"]).blocks
    assert {"PanelGrid", "MarkdownBlock", "Paragraph"} == {type(block).__name__ for block in blocks}


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_report_is_not_sent_where_the_mode_forbids_it(mode, stub, enter, study, monkeypatch):
    enter()
    monkeypatch.setenv("WANDB_MODE", mode)
    made = dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    assert (made.report, made.workspace) == (None, None)
    assert stub.views("runs") == stub.views("project-view") == []
    assert "WANDB_MODE forbids to send" in "\n".join(made.said)


@pytest.mark.parametrize("mood", ["no key", "broken", "silent"])
def test_without_a_server_the_study_keeps_its_text(mood, stub, enter, study, monkeypatch):
    enter(key=mood != "no key")
    stub.mood = "kind" if mood == "no key" else mood
    monkeypatch.setattr(dashboard, "PATIENCE", 30.0 if mood == "no key" else 1.0)
    made = dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    assert (made.report, made.workspace) == (None, None)
    (line,) = made.said
    assert ("there is no key" if mood == "no key" else "no answer in 1 s") in line
    assert "report=true wandb.report=true wandb.project=ablations" in line
    assert "| alibi | better |" in made.text.read_text()


def test_a_name_that_wandb_cannot_select_by_is_refused(stub, enter, tmp_path):
    enter()
    folder = tmp_path / "it's"
    folder.mkdir()
    world(folder)
    (line,) = dashboard.publish(
        folder, judge_study(read_results(folder)), "ablations", None, folder / "runs"
    ).said
    assert "rename the folder" in line
    assert stub.asked == []


def test_runs_that_are_on_disk_only_are_counted(enter, study):
    enter(key=False)
    first, second, *_ = sorted(folder.name for folder in (study / "runs").iterdir())
    for id in (first, second):
        (study / "runs" / id / "wandb" / "offline-run-20260101_000000-x").mkdir(parents=True)
    synced = (
        study / "runs" / second / "wandb" / "offline-run-20260101_000000-x" / f"run-{second}.wandb.synced"
    )
    synced.touch()
    made = dashboard.publish(study, judge_study(read_results(study)), "ablations", None, study / "runs")
    assert (
        f"1 runs are mirrored on disk only; to upload: wandb sync {study}/runs/*/wandb/offline-run-*"
        in made.said
    )


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
arms: {{rope: [], none: [model/position=none]}}
seeds: 2
tune: fixed
metric: heldout/loss
equivalence_margin: 0.05
"""


@pytest.mark.slow
def test_a_study_is_mirrored_and_published(stub, tmp_path):
    """`python sweep.py`, as a person runs it, with W&B on the other side."""
    (tmp_path / "a.txt").write_text(
        "\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200))
    )
    experiment = tmp_path / "experiments" / "small"
    experiment.mkdir(parents=True)
    (experiment / "study.yaml").write_text(STUDY.format(text=tmp_path / "a.txt"))
    root = Path(__file__).parents[2]
    places = [
        f"{what}={tmp_path}/{where}" for what, where in (("experiments", "experiments"), ("store", "runs"))
    ]
    command = [sys.executable, str(root / "sweep.py"), "experiment=small", *places, f"cache={tmp_path}/cache"]
    command += ["slots=2", "wandb.mirror=true", "wandb.report=true", "wandb.project=ablations"]
    env = {**os.environ, **environment(stub, tmp_path, True)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = {path.parent.name for path in tmp_path.glob("runs/*/record.json")}
    runs = {name: run for name, run in stub.runs().items() if name in records}
    assert set(runs) == records
    assert {run["groupName"] for run in runs.values()} == {"small"}
    said = {(run["config"]["arm"], run["config"]["seed"]) for run in runs.values()}
    assert said == {(arm, seed) for arm in ("rope", "none", "placebo") for seed in (0, 1)}
    assert all(stub.history(name) for name in records)
    assert len(stub.views("runs")) == len(stub.views("project-view")) == 1
    assert f"W&B report: {stub.url}/{ENTITY}/ablations/reports/" in done.stdout
    assert stub.strangers == []
