"""Published models beside the arms of a study: what they read, what is refused, where they are shown."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_world import finished, loss, planned, world
from test_foreign import a_llama

from ablate.__main__ import main
from ablate.cli.compose import ConfigError
from ablate.cli.exchange import measure_like
from ablate.cli.references import check_references, measured_references
from ablate.record import RunRecord
from ablate.study.design.planned import Plan
from ablate.study.design.study import StudyError
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report.figures import published
from ablate.study.report.reference_tables import beside_frame, reference_tables
from ablate.study.report.render import report
from ablate.study.results import read_results, write_references

ARMS = {"rope": [], "alibi": ["model/position=alibi"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, and its model as a Hugging Face folder."""
    there = tmp_path_factory.mktemp("published")
    run = a_llama(there / "run")
    assert main(["export", str(run), str(there / "hub")]) == 0
    return {"run": run, "hub": there / "hub"}


def plan_on(
    folders: dict[str, Path], context: int, data: dict[str, Any] | None = None, **changes: Any
) -> Plan:
    """A plan whose arms have the text and the context of the run."""
    made = planned(arms=ARMS, seeds=2, references={"small": str(folders["hub"])}, **changes)
    data = data or RunRecord.load(folders["run"]).spec["data"]
    arms = (
        replace(arm, spec={**arm.spec, "data": data, "model": {**arm.spec["model"], "context": context}})
        for arm in made.arms
    )
    return replace(made, arms=tuple(arms))


def rows(made: Plan, cache: Path, known: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    workspace: Any = SimpleNamespace(device="cpu", options=SimpleNamespace(cache=cache))
    return list(measured_references(made, workspace, known or []))


def test_it_reads_the_text_of_the_arms_in_its_own_tokens(folders, tmp_path, monkeypatch):
    spec = RunRecord.load(folders["run"]).spec
    context = spec["model"]["context"]
    (row,) = rows(plan_on(folders, context), tmp_path)
    like = measure_like(folders["hub"], ["heldout"], folders["run"], tmp_path).metrics
    assert row["heldout/bits_per_byte"] == pytest.approx(like["heldout/bits_per_byte"], rel=1e-6)
    assert not [name for name in row if name.endswith(("/loss", "/perplexity"))]  # tokens differ
    assert len(row["model"]) == 12 and row["parameters"] > 1000 and f"{context} tokens" in row["read"]
    bpe = {**spec["data"], "tokenizer": {"name": "bpe", "vocab": 300}}
    (other,) = rows(plan_on(folders, context, bpe), tmp_path)
    assert other["heldout/bits_per_byte"] == row["heldout/bits_per_byte"]  # whatever the arms' tokenizer
    (validation,) = rows(plan_on(folders, context, metric="validation/loss"), tmp_path)
    assert "validation/bits_per_byte" in validation and "heldout/bits_per_byte" not in validation
    (short,) = rows(plan_on(folders, context // 2), tmp_path)
    assert f"{context // 2} tokens" in short["read"]
    assert short["heldout/bits_per_byte"] != row["heldout/bits_per_byte"]
    monkeypatch.setattr("ablate.train.evaluate.evaluate", lambda *_: pytest.fail("measured again"))
    assert rows(plan_on(folders, context), tmp_path, [row]) == [row]


def test_sets_are_read_too(folders, tmp_path):
    spec = RunRecord.load(folders["run"]).spec
    own = spec["data"]["source"]
    data = {**spec["data"], "sets": {"own": own, "library": {**own, "split": "tail"}}}
    (row,) = rows(plan_on(folders, spec["model"]["context"], data), tmp_path)
    assert row["heldout/own/bits_per_byte"] == row["heldout/bits_per_byte"]
    mean = (row["heldout/own/bits_per_byte"] + row["heldout/library/bits_per_byte"]) / 2
    assert row["heldout/macro/bits_per_byte"] == mean


def test_what_cannot_read_is_refused_before_the_runs(folders, tmp_path):
    check_references(plan_on(folders, 16))
    dumb = shutil.copytree(folders["hub"], tmp_path / "dumb")
    (dumb / "tokenizer.json").unlink()
    odd = shutil.copytree(folders["hub"], tmp_path / "odd")
    (odd / "config.json").write_text('{"model_type": "nope"}')
    for folder, said in (
        (tmp_path / "nothing", "is no Hugging Face folder"),
        (folders["run"], "is no Hugging Face folder"),
        (dumb, "has no tokenizer.json"),
        (odd, "nope"),
    ):
        with pytest.raises(ConfigError, match=rf"references\.small: .*{said}"):
            check_references(plan_on({**folders, "hub": folder}, 16))
    task = {"source": {"name": "copy"}, "tokenizer": {"name": "symbols"}}
    tokens = {"source": {"name": "tokens", "files": ["a.bin"]}, "tokenizer": {"name": "bytes"}}
    for data, said in ((task, "examples of a task"), (tokens, "tokens of another tokenizer")):
        with pytest.raises(ConfigError, match=f"references: arm rope: .*{said}"):
            check_references(plan_on(folders, 16, data))
    with pytest.raises(StudyError, match="references: alibi is an arm too"):
        planned(arms=ARMS, references={"alibi": "x"})


def test_a_report_has_a_line_for_it(tmp_path):
    def outcome(run: Any) -> dict[str, Any]:
        return {**finished(run), "metrics": {"heldout/bits_per_byte": loss(run) / 2}}

    references = {"large": "hub/large", "tiny": "hub/tiny"}
    world(tmp_path, outcome, arms=ARMS, seeds=3, references=references, metric="heldout/bits_per_byte")
    assert read_results(tmp_path).references is None
    common = {"corpus": "home", "model": "0" * 12, "text": "t", "read": "heldout", "parameters": 7e7}
    common["corpus"] = read_results(tmp_path).runs["corpus"][0]
    levels = {"large": 0.9, "tiny": 2.5, "gone": 1.0}
    made = [{**common, "reference": name, "heldout/bits_per_byte": n} for name, n in levels.items()]
    write_references(tmp_path, made)
    judgement = judge_study(read_results(tmp_path))
    (judged,) = judgement.corpora
    frame = beside_frame(judgement, judged)
    assert frame["name"].tolist() == ["large", "alibi", "rope", "placebo", "tiny"]
    assert frame["heldout/bits_per_byte"].is_monotonic_increasing
    (table,) = reference_tables(judgement, judged)
    assert table.rows[0][:2] == ("large", "published model")
    assert published(judgement, judged) == {"large": 0.9, "tiny": 2.5}
    report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Beside published models" in page and "Dotted lines are published models" in page
    assert (tmp_path / "tables" / "references.csv").is_file()
    file = tmp_path / "results" / "references.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"references\.parquet is missing or damaged"):
        read_results(tmp_path)


def test_without_published_models_nothing_is_said_of_them(tmp_path):
    judgement = judge_study(world(tmp_path, arms=ARMS, seeds=3))
    assert reference_tables(judgement, judgement.corpora[0]) == []
    assert published(judgement, judgement.corpora[0]) == {}
    report(tmp_path)
    assert "ublished models" not in (tmp_path / "report.html").read_text()
