"""Runs trained as one leave the records of lone runs, and none falls with another."""

import json
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training import MOE, QUIET, curve, prepared_for, run_of, run_spec, write_text

from ablate.parts.base import IncompatibleParts
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train.evaluate import Evaluation, evaluate
from ablate.train.fit import Run, fit
from ablate.train.request import RunRequest
from ablate.train.settings import LoggerSpec, Settings
from ablate.train.speed import ensemble_runs
from ablate.train.speed.ensemble_gain import EnsembleGain, gain

RATES = (1e-3, 2e-3, 4e-3)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def opened(spec: RunSpec, runs, text, settings: Settings = QUIET) -> Run:
    return run_of(spec, prepared_for(spec, text.parent), runs, settings, {"parameters": 7.0})


def specs(text, rates=RATES, **options) -> list[RunSpec]:
    return [
        run_spec(text, seed=seed, optim={"name": "adamw", "lr": lr}, **options)
        for seed, lr in enumerate(rates)
    ]


@pytest.fixture(scope="module")
def both(text, tmp_path_factory):
    """The same runs together and alone: (id, folder together, folder alone)."""
    together, alone = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("alone")
    heard: list[str] = []
    runs = [opened(spec, together, text) for spec in specs(text)]
    ensemble_runs.train_together(runs, heard.append)
    assert heard == [run.id for run in runs]
    for spec in specs(text):
        fit(spec, prepared_for(spec, text.parent), QUIET, alone, counts={"parameters": 7.0})
    return [(id, together / id, alone / id) for id in heard]


def test_the_records_are_those_of_lone_runs(both):
    for id, together, alone in both:
        mine, theirs = RunRecord.load(together), RunRecord.load(alone)
        same = (
            "id",
            "status",
            "reason",
            "source_hash",
            "spec",
            "fingerprint",
            "counts",
            "kernel",
            "heldout_reads",
        )
        assert {f: getattr(mine, f) for f in same} == {f: getattr(theirs, f) for f in same}
        assert mine.id == id and mine.status == "finished"
        assert mine.metrics == pytest.approx(theirs.metrics, abs=1e-5, rel=1e-5)
        assert mine.speed.keys() == theirs.speed.keys()
        assert mine.provenance.keys() - theirs.provenance.keys() == {"replicas"}
        assert mine.provenance["replicas"] == 3


def test_the_looks_of_the_others_are_no_time_of_training(text, tmp_path, monkeypatch):
    now = [0.0]

    def tick() -> float:
        now[0] += 1e-3
        return now[0]

    def look(*given: Any, **options: Any) -> Evaluation:
        now[0] += 1000.0
        return evaluate(*given, **options)

    monkeypatch.setattr("time.perf_counter", tick)
    monkeypatch.setattr("ablate.train.callback.evaluate", look)
    runs = [opened(spec, tmp_path, text) for spec in specs(text)]
    ensemble_runs.train_together(runs)
    assert all(0 < RunRecord.load(run.folder).speed["seconds"] < 1 for run in runs)


def test_a_stack_makes_no_checkpoints_whatever_the_settings(text, tmp_path):
    settings = QUIET.model_copy(update={"checkpoint_steps": 2})
    runs = [opened(spec, tmp_path, text, settings) for spec in specs(text)]
    ensemble_runs.train_together(runs)
    assert [RunRecord.load(run.folder).status for run in runs] == ["finished"] * 3
    assert not list(tmp_path.glob("*/checkpoint"))


def test_what_lies_beside_the_records_is_what_lone_runs_leave(both):
    for _, together, alone in both:
        files = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (together, alone)]
        assert files[0] == files[1]
        pd.testing.assert_frame_equal(curve(together), curve(alone), rtol=1e-5, atol=1e-5)
        weights = [load_file(folder / "weights" / "model.safetensors") for folder in (together, alone)]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=1e-5, atol=1e-5)


def test_one_diverges_and_the_others_go_on(text, tmp_path):
    """The second has a rate at which the parameters overflow."""
    wild = specs(text, (1e-3, 1e30, 2e-3), clip=None)
    heard: list[str] = []
    runs = [opened(spec, tmp_path, text) for spec in wild]
    ensemble_runs.train_together(runs, heard.append)
    records = [RunRecord.load(run.folder) for run in runs]
    assert [record.status for record in records] == ["finished", "diverged", "finished"]
    assert heard == [runs[1].id, runs[0].id, runs[2].id]
    assert "loss was" in records[1].reason and not records[1].metrics
    assert not (runs[1].folder / "weights").exists()
    lone = fit(wild[2], prepared_for(wild[2], text.parent), QUIET, tmp_path / "alone", counts={})
    assert records[2].metrics == pytest.approx(lone.metrics, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "settings", "reason"),
    [
        ({"model": {"dropout": 0.1}}, {}, "dropout"),
        ({"precision": "bf16"}, {}, "order of additions"),
        ({}, {"keep": "all"}, "keeps no checkpoints"),
        ({}, {"compile": True}, "lone runs"),
        ({}, {"devices": 2}, "several devices"),
        ({}, {"logger": LoggerSpec(name="wandb")}, "one run a process"),
    ],
)
def test_what_cannot_be_equal_is_refused(text, tmp_path, options, settings, reason):
    runs = [
        opened(run_spec(text, seed=seed, **options), tmp_path, text, QUIET.model_copy(update=settings))
        for seed in range(2)
    ]
    with pytest.raises(IncompatibleParts, match=reason):
        ensemble_runs.train_together(runs)
    assert not list(tmp_path.iterdir())


def test_other_shapes_and_a_checkpoint_are_refused(text, tmp_path):
    one, other = run_spec(text), run_spec(text, {"width": 64})
    assert ensemble_runs.family(one) != ensemble_runs.family(other)
    assert ensemble_runs.family(one) == ensemble_runs.family(run_spec(text, seed=4, optim="sgd", clip=None))
    with pytest.raises(IncompatibleParts, match="differ in more than seeds and rates"):
        ensemble_runs.train_together([opened(one, tmp_path, text), opened(other, tmp_path, text)])
    runs = [opened(spec, tmp_path, text) for spec in specs(text)]
    begun = runs[1].checkpoints.folder / f"{runs[1].source_hash}-000000004"
    begun.mkdir(parents=True)
    (begun / "state").write_text("")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (begun / "hashes.json").write_text(json.dumps({"state": digest}))
    with pytest.raises(IncompatibleParts, match="goes on from a checkpoint"):
        ensemble_runs.train_together(runs)


def payloads(made: list[RunSpec], runs, text) -> list[dict]:
    return [
        RunRequest(
            spec=spec, settings=QUIET, runs=runs, cache=text.parent / "cache", outbox=runs / f"out{n}"
        ).payload()
        for n, spec in enumerate(made)
    ]


def test_what_cannot_be_stacked_is_trained_alone(text, tmp_path):
    made = [run_spec(text, {"ffn": MOE}, steps=2, seed=seed) for seed in range(2)]
    heard: list[str] = []
    ensemble_runs.ensemble_work(payloads(made, tmp_path, text), heard.append)
    records = [RunRecord.load(tmp_path / f"out{n}") for n in range(2)]
    assert [record.id for record in records] == heard
    assert [record.status for record in records] == ["finished"] * 2
    assert "replicas" not in records[0].provenance


def test_a_failure_of_the_stack_is_no_outcome_of_its_runs(text, tmp_path, monkeypatch):
    """It fails when the first run has ended already; the others are trained alone."""
    real, ended = ensemble_runs.Replica.end, []

    def end(self, *given):
        if ended:
            raise RuntimeError("CUDA error: unspecified launch failure")
        ended.append(self.run.id)
        real(self, *given)

    monkeypatch.setattr(ensemble_runs.Replica, "end", end)
    heard: list[str] = []
    ensemble_runs.ensemble_work(payloads(specs(text), tmp_path, text), heard.append)
    records = [RunRecord.load(tmp_path / f"out{n}") for n in range(3)]
    assert [record.id for record in records] == heard
    assert [record.status for record in records] == ["finished"] * 3
    assert ["replicas" in record.provenance for record in records] == [True, False, False]


def test_the_gain_is_measured_once(text, tmp_path, monkeypatch):
    asked = payloads(specs(text), tmp_path, text)
    for payload in asked:
        payload["cache"] = str(tmp_path / "cache")
    found = gain(asked)
    assert found.ratio > 0 and not found.reason
    monkeypatch.setattr("ablate.train.speed.ensemble_gain.measured_ensemble_gain", None)  # not called again
    assert gain(asked) == found
    assert not list(tmp_path.glob("*/weights"))


def test_the_gain_is_that_of_compiled_runs_where_they_are_compiled(text, tmp_path, monkeypatch):
    """And of their optimizer: that of sgd cannot be captured on a GPU."""

    def gained(optim: str, compile: bool) -> str:
        asked = payloads([run_spec(text, seed=seed, optim=optim) for seed in range(2)], tmp_path, text)
        settings = QUIET.model_copy(update={"compile": compile}).model_dump(mode="json")
        asked = [{**payload, "cache": str(tmp_path / "cache"), "settings": settings} for payload in asked]
        said = f"{optim}, {compile}"
        monkeypatch.setattr(
            "ablate.train.speed.ensemble_gain.measured_ensemble_gain", lambda runs: EnsembleGain(reason=said)
        )
        return gain(asked).reason

    for optim in ("adamw", "sgd"):
        for compile in (False, True):
            assert gained(optim, compile) == f"{optim}, {compile}"


def test_experts_gain_nothing_for_the_reason_given(text, tmp_path):
    asked = payloads([run_spec(text, {"ffn": MOE}, seed=seed) for seed in range(2)], tmp_path, text)
    for payload in asked:
        payload["cache"] = str(tmp_path / "cache")
    found = gain(asked)
    assert found.ratio == 0 and "experts cannot be stacked" in found.reason
