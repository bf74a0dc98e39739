"""One run, from specification to record."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training import CONTEXT, MOE, QUIET, ROWS, curve, prepared_for, run_of, run_spec, write_text

from ablate.cli.estimate import design_run
from ablate.data.stream import NO_LOSS, Stream
from ablate.model import loss
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext, IncompatibleParts
from ablate.paths import PACKAGE
from ablate.provenance import package_version
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train import callback
from ablate.train.evaluate import evaluate
from ablate.train.fit import Run, fit, train_work
from ablate.train.monitor import loggers
from ablate.train.monitor.meters import Speed
from ablate.train.monitor.progress import Lines, Progress
from ablate.train.settings import LoggerSpec
from ablate.train.state.source_hash import hashed, source_hash
from ablate.train.state.warm_start import started
from ablate.train.state.weights import WEIGHTS_FILE, WeightsMismatch, file_hash
from ablate.train.task import Task


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def train(spec: RunSpec, runs: Path, text: Path, settings: dict | None = None, **options) -> RunRecord:
    settings = QUIET.model_copy(update=settings or {})
    return fit(spec, prepared_for(spec, text.parent), settings, runs, **options)


@pytest.fixture(scope="module")
def plain(text, tmp_path_factory) -> tuple[RunSpec, Path, RunRecord]:
    spec, runs = run_spec(text), tmp_path_factory.mktemp("plain")
    return spec, runs, train(spec, runs, text, counts={"parameters": 7.0})


# ---------------------------------------------------------------------------------------- the record


def test_the_record_says_what_was_done(plain, text):
    spec, runs, record = plain
    assert record.status == "finished"
    assert record == RunRecord.load(runs / record.id)
    assert record.id == spec.id(prepared_for(spec, text.parent).fingerprint)
    assert RunSpec.model_validate(record.spec) == spec
    assert record.counts == {"parameters": 7.0}
    assert record.source_hash == source_hash(spec)
    assert record.weights_hash == file_hash(runs / record.id / WEIGHTS_FILE)
    assert record.heldout_reads == 0
    assert record.kernel
    assert record.speed["tokens_per_second"] > 0
    assert record.memory["peak_resident_bytes"] > 1e7
    assert {"python", "torch", "lightning", "git", "device_kind", "threads", "command"} <= set(
        record.provenance
    )
    assert record.provenance["began"] <= record.provenance["ended"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_of_a_study_counts_what_train_py_does(precision, text, tmp_path):
    """The one leaves the counts to the run, the other gives it those of its plan."""
    spec = run_spec(text, precision=precision)
    run = run_of(spec, prepared_for(spec, text.parent), tmp_path)
    assert run.counts == asdict(design_run(spec).costs)


def test_a_package_that_is_not_installed_has_a_version(monkeypatch, tmp_path):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("ablate.provenance.version", absent)
    file = PACKAGE.parent / "pyproject.toml"
    assert package_version.__wrapped__() == tomllib.loads(file.read_text())["project"]["version"]
    monkeypatch.setattr("ablate.provenance.PACKAGE", tmp_path / "ablate")
    assert package_version.__wrapped__() == "unknown"


def test_where_provenance_fails_nothing_is_trained(text, tmp_path, monkeypatch):
    """What can fail by the environment is asked before the first step."""

    def fail(*given: Any) -> dict[str, Any]:
        raise OSError("no such machine")

    monkeypatch.setattr("ablate.train.fit.provenance", fail)
    steps: list[Progress] = []
    with pytest.raises(OSError, match="no such machine"):
        train(run_spec(text), tmp_path, text, on_progress=steps.append)
    assert not steps and not list(tmp_path.glob("*/curve.*"))


def test_threads_are_those_of_the_run_alone(text, tmp_path):
    """A worker that stays warm, or a multirun, trains others after it, which may say nothing of threads."""
    before = torch.get_num_threads()
    record = train(run_spec(text, steps=2), tmp_path, text, {"threads": before + 1})
    assert record.provenance["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_more_threads_than_the_machine_can_start_are_no_outcome_of_the_run(text, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.threads 1000000: this machine has \d+ cores"):
        train(run_spec(text, steps=2), tmp_path, text, {"threads": 1_000_000})
    assert not list(tmp_path.glob("*/record.json"))


def test_the_metrics_are_those_of_the_stored_weights(plain, text):
    """By another road: all tokens of the split in one batch of the stream, without `evaluate`."""
    spec, runs, record = plain
    split = prepared_for(spec, text.parent).splits["validation"]
    decoder = Decoder(spec.model).eval()
    decoder.load_state_dict(load_file(runs / record.id / "weights" / "model.safetensors"))
    (batch,) = Stream(split, CONTEXT, "joined", 0).evaluation_batches(10_000)
    assert int((batch.targets != NO_LOSS).sum()) == len(split.tokens) - 1
    loss = decoder(batch.tokens, targets=batch.targets).nll.double().sum().item() / (len(split.tokens) - 1)
    assert record.metrics["validation/loss"] == pytest.approx(loss, abs=1e-6)
    assert record.metrics["validation/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    bits = loss * len(split.tokens) / math.log(2) / split.bytes
    assert record.metrics["validation/bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_the_curve_has_a_row_for_each_step(plain):
    spec, runs, record = plain
    rows = pd.read_parquet(runs / record.id / "curve.parquet")
    assert rows["step"].tolist() == list(range(1, spec.steps + 1))
    assert (rows["tokens"] == rows["step"] * CONTEXT * ROWS).all()
    assert rows["loss"].iloc[-1] < rows["loss"].iloc[0] - 0.5
    assert rows["validation_loss"].dropna().index.tolist() == [3, 7, 11]
    assert rows["validation_loss"].iloc[-1] == record.metrics["validation/loss"]
    assert rows["seconds"].is_monotonic_increasing
    assert (rows["grad_norm"] > 0).all()


@pytest.mark.parametrize(
    "model",
    [{"ffn": {**MOE, "balance_loss_weight": 0.1}}, {"head": {"z_loss": 0.01}}],
    ids=["balance", "z_loss"],
)
def test_what_is_added_to_the_loss_is_a_column_and_a_metric(model, text, tmp_path):
    spec = run_spec(text, model, steps=2)
    record = train(spec, tmp_path, text)
    batch = Stream(prepared_for(spec, text.parent).splits["train"], CONTEXT, "joined", 0).batch(0, ROWS)
    decoder = Decoder(spec.model).init_parameters(0)
    call = ForwardContext(batch.positions, aux=decoder.aux())
    losses = decoder(batch.tokens, call, targets=batch.targets)
    added = decoder.auxiliary(call.aux)
    if losses.z is not None:
        added = added + spec.model.head.z_loss * losses.z.mean()
    rows = pd.read_parquet(tmp_path / record.id / "curve.parquet")
    assert rows["loss"][0] == pytest.approx(losses.nll.mean().item(), abs=1e-5)
    assert rows["auxiliary_loss"][0] == pytest.approx(added.item(), rel=1e-4) and added > 1e-3
    assert record.metrics["train/auxiliary_loss"] == rows["auxiliary_loss"].iloc[-1]
    in_passes = train(spec, tmp_path / "passes", text, {"micro_batch_size": 1})
    assert in_passes.metrics["train/auxiliary_loss"] == pytest.approx(rows["auxiliary_loss"][1], rel=1e-3)


def test_a_plain_curve_has_no_column_of_what_is_added(plain):
    _, runs, record = plain
    assert "auxiliary_loss" not in pd.read_parquet(runs / record.id / "curve.parquet")
    assert "train/auxiliary_loss" not in record.metrics


def test_the_first_losses_are_those_of_the_untrained_model(plain, text):
    spec, runs, record = plain
    prepared = prepared_for(spec, text.parent)
    batch = Stream(prepared.splits["train"], CONTEXT, "joined", 0).batch(0, ROWS)
    loss = Decoder(spec.model).init_parameters(0)(batch.tokens, targets=batch.targets).nll.mean().item()
    assert curve(runs / record.id)["loss"][0] == pytest.approx(loss, abs=1e-6)


def test_a_finished_run_is_not_repeated(plain, text, monkeypatch):
    spec, runs, record = plain
    with monkeypatch.context() as patched:
        patched.setattr(Task, "training_step", None)
        assert train(spec, runs, text) == record
    again = train(spec, runs, text, rerun=True)
    assert again.metrics == record.metrics
    assert again.provenance["began"] >= record.provenance["ended"]


def test_other_sources_make_it_stale(text, tmp_path, monkeypatch):
    spec = run_spec(text, steps=2)
    train(spec, tmp_path, text)
    monkeypatch.setattr("ablate.train.fit.source_hash", lambda spec: "0" * 12)
    assert train(spec, tmp_path, text).source_hash == "0" * 12


def test_held_out_is_never_read(text, tmp_path):
    spec = run_spec(text, steps=2)
    prepared = prepared_for(spec, text.parent)

    class Sealed(dict):
        def __getitem__(self, name):
            assert name != "heldout"
            return super().__getitem__(name)

    sealed = Sealed({name: split for name, split in prepared.splits.items() if name != "heldout"})
    object.__setattr__(prepared, "splits", MappingProxyType(sealed))
    assert fit(spec, prepared, QUIET, tmp_path).status == "finished"


@pytest.mark.parametrize("keep", ["none", "weights", "all"])
def test_what_is_kept(keep, text, tmp_path):
    record = train(run_spec(text, steps=2), tmp_path, text, {"keep": keep})
    names = {path.name for path in (tmp_path / record.id).iterdir()}
    held = {"none": set(), "weights": {"weights", "tokenizer"}, "all": {"weights", "tokenizer", "checkpoint"}}
    assert names == {"record.json", "curve.parquet", "config.yaml"} | held[keep]


def test_what_other_sources_left_does_not_stay(text, tmp_path, monkeypatch):
    spec = run_spec(text, steps=2)
    folder = tmp_path / train(spec, tmp_path, text).id
    monkeypatch.setattr("ablate.train.fit.source_hash", lambda spec: "other")
    train(spec, tmp_path, text, {"keep": "none"})
    assert {path.name for path in folder.iterdir()} == {"record.json", "curve.parquet", "config.yaml"}
    monkeypatch.setattr("ablate.train.fit.source_hash", lambda spec: "others still")
    monkeypatch.setattr("ablate.train.callback.FAR", 0.0)
    monkeypatch.setattr("ablate.train.callback.LONG", (1, 0.0))
    assert train(spec, tmp_path, text).status == "diverged"
    assert {path.name for path in folder.iterdir()} == {"record.json", "curve.jsonl", "config.yaml"}


# ------------------------------------------------------------------------- settings change no numbers


VARIANTS = {
    "micro": ({}, {"micro_batch_size": 3}),
    "activation_checkpointing": ({}, {"activation_checkpointing": True}),
    "experts_micro": (
        {"ffn": {**MOE, "bias_update_rate": 0.01, "capacity_factor": 1.0}},
        {"micro_batch_size": 3},
    ),
    "experts_recompute": ({"ffn": MOE}, {"activation_checkpointing": True}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_change_no_numbers(name, text, tmp_path):
    model, settings = VARIANTS[name]
    spec = run_spec(text, model)
    one, two = (train(spec, tmp_path / n, text, chosen) for n, chosen in (("one", {}), ("two", settings)))
    first, second = (curve(tmp_path / n / one.id) for n in ("one", "two"))
    pd.testing.assert_frame_equal(first, second, rtol=0, atol=1e-5)
    assert two.metrics["validation/loss"] == pytest.approx(one.metrics["validation/loss"], abs=1e-5)


@pytest.mark.slow
def test_compiled_is_the_same(text, tmp_path):
    spec = run_spec(text)
    one, _ = train(spec, tmp_path / "one", text), train(spec, tmp_path / "two", text, {"compile": True})
    first, second = (curve(tmp_path / n / one.id) for n in ("one", "two"))
    pd.testing.assert_frame_equal(first, second, rtol=0, atol=1e-4)
    names = (set(load_file(tmp_path / n / one.id / "weights" / "model.safetensors")) for n in ("one", "two"))
    assert len(set(map(frozenset, names))) == 1


def test_bf16_learns_the_same_and_keeps_weights_in_fp32(plain, text, tmp_path):
    _, runs, record = plain
    half = train(run_spec(text, precision="bf16"), tmp_path, text)
    assert half.id != record.id
    difference = curve(runs / record.id)["loss"] - curve(tmp_path / half.id)["loss"]
    assert 0 < difference.abs().max() < 0.05
    state = load_file(tmp_path / half.id / "weights" / "model.safetensors")
    assert {x.dtype for x in state.values()} == {torch.float32}


def test_experts_get_their_gradient_under_bf16_and_accumulation(text, tmp_path):
    """The look ahead without gradients must leave no casts behind."""
    spec = run_spec(text, {"ffn": MOE}, precision="bf16")
    one, two = (train(spec, tmp_path / str(n), text, {"micro_batch_size": n}) for n in (None, 4))
    first, second = (curve(tmp_path / str(n) / one.id) for n in (None, 4))
    assert two.status == "finished"
    np.testing.assert_allclose(first["grad_norm"], second["grad_norm"], rtol=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_in_slices_trains_the_same_in_any_passes(precision, text, tmp_path, monkeypatch):
    spec = run_spec(text, {"head": {"z_loss": 1e-3, "softcap": 5.0}}, steps=5, precision=precision)
    curves = []
    for n, size in enumerate((loss.LOGITS_SLICE, 4 * spec.model.shape().vocab * 50)):  # 50 tokens
        monkeypatch.setattr(loss, "LOGITS_SLICE", size)
        record = train(spec, tmp_path / str(n), text, {"micro_batch_size": 3})
        curves.append(curve(tmp_path / str(n) / record.id))
    close = {"fp32": 1e-5, "bf16": 0.02}[precision]
    for what in ("loss", "grad_norm"):
        np.testing.assert_allclose(curves[0][what], curves[1][what], rtol=close)


def test_dropout_differs_by_step_and_seed(text, tmp_path):
    seeds = ({"init": 0, "data": 0, "dropout": n} for n in (0, 1))
    one, two = (train(run_spec(text, {"dropout": 0.3}, seed=seed), tmp_path, text) for seed in seeds)
    assert (curve(tmp_path / one.id)["loss"] != curve(tmp_path / two.id)["loss"]).all()


# ------------------------------------------------------------------------------------- bad endings


def test_divergence_is_an_outcome(text, tmp_path):
    spec = run_spec(text, optim={"name": "sgd", "lr": 1e6}, clip=None)
    record = train(spec, tmp_path, text)
    assert record.status == "diverged"
    assert "the loss was" in record.reason
    assert train(spec, tmp_path, text) == record
    json.loads((tmp_path / record.id / "record.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(("until", "status"), [(15, "finished"), (40, "diverged")])
def test_a_spike_may_pass_but_not_a_plateau(until, status, text, tmp_path, monkeypatch):
    real = Task.objective

    def high(self, *given):
        nll, objective, loads = real(self, *given)
        return nll + 20 * (5 <= self.steps.done < until), objective, loads

    monkeypatch.setattr(Task, "objective", high)
    record = train(run_spec(text, steps=50), tmp_path, text)
    assert record.status == status
    assert status == "finished" or record.reason.startswith("the loss was 2")


def test_a_loss_that_is_not_a_number_is_divergence(text, tmp_path, monkeypatch):
    real = Task.objective

    def broken(self, *given):
        nll, objective, loads = real(self, *given)
        return nll * (math.nan if self.steps.done == 3 else 1), objective, loads

    monkeypatch.setattr(Task, "objective", broken)
    record = train(run_spec(text), tmp_path, text)
    assert (record.status, record.reason) == ("diverged", "the loss was nan at step 4")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (IncompatibleParts("kernel flash: there is no GPU"), "refused"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else x,
)
def test_how_a_run_can_end(error, status, text, tmp_path, monkeypatch):
    def fail(self, step, index):
        raise error

    monkeypatch.setattr(Task, "training_step", fail)
    record = train(run_spec(text, steps=2), tmp_path, text)
    assert record.status == status
    assert str(error) in record.reason
    assert RunRecord.load(tmp_path / record.id) == record
    monkeypatch.undo()
    assert train(run_spec(text, steps=2), tmp_path, text).status == "finished"


def test_a_crash_is_recorded_and_raised(text, tmp_path, monkeypatch):
    def fail(self, step, index):
        raise ZeroDivisionError("a part of the user's")

    monkeypatch.setattr(Task, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        train(run_spec(text, steps=2), tmp_path, text)
    (folder,) = tmp_path.iterdir()
    record = RunRecord.load(folder)
    assert (record.status, record.reason) == ("crashed", "ZeroDivisionError: a part of the user's")


def test_rows_that_cannot_be_shared_are_refused_before_anything_starts(text, tmp_path):
    with pytest.raises(ValueError, match="8 rows cannot be shared equally by 3 devices"):
        train(run_spec(text), tmp_path, text, {"devices": 3})
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- start from another


def test_weights_of_a_parent_under_a_longer_context(plain, text):
    _, runs, parent = plain
    longer = run_spec(text, {"context": 48, "position": {"name": "rope", "scaling": "none"}})
    record = train(longer, runs, text, start=runs / parent.id)
    assert record.spec["parent"] == parent.id
    assert record.id not in (parent.id, longer.id(record.fingerprint))
    assert curve(runs / record.id)["loss"][0] < curve(runs / parent.id)["loss"].iloc[2]
    assert train(RunSpec.model_validate(record.spec), runs, text) == record  # the parent is found by its id


def test_shapes_that_differ_are_named_before_a_run_begins(plain, text, tmp_path):
    _, runs, parent = plain
    there = sorted(runs.iterdir())
    with pytest.raises(
        WeightsMismatch, match=r"layers\.0\.ffn\.gate\.weight is \(40, 32\) in the file and \(48, 32\)"
    ):
        train(run_spec(text, {"ffn": {"name": "glu", "width": 48}}), runs, text, start=runs / parent.id)
    with pytest.raises(WeightsMismatch, match=r"positions\.0\.table\.weight is missing in the file"):
        train(run_spec(text, {"position": "learned"}), runs, text, start=runs / parent.id)
    assert sorted(runs.iterdir()) == there
    parent.save(tmp_path)
    (tmp_path / WEIGHTS_FILE).parent.mkdir()
    whole = (runs / parent.id / WEIGHTS_FILE).read_bytes()
    spec = run_spec(text, {"context": 48, "position": {"name": "rope", "scaling": "none"}})
    for damaged in (whole[:-100], whole[:-1001] + bytes([whole[-1001] ^ 64]) + whole[-1000:]):
        (tmp_path / WEIGHTS_FILE).write_bytes(damaged)
        with pytest.raises(WeightsMismatch, match=r"model\.safetensors is damaged.*rerun=true"):
            started(spec, prepared_for(spec, text.parent), tmp_path)


def test_a_parent_that_is_not_finished_or_of_other_tokens_is_refused(plain, text, tmp_path):
    spec, runs, parent = plain
    other = run_spec(text, data={"source": {"name": "text", "files": [str(text)]}, "tokenizer": "characters"})
    with pytest.raises(WeightsMismatch, match="another tokenizer"):
        train(other, runs, text, start=runs / parent.id)
    parent.model_copy(update={"status": "diverged"}).save(tmp_path)
    with pytest.raises(WeightsMismatch, match="diverged, not finished"):
        train(spec, runs, text, start=tmp_path)
    parent.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights were kept"):
        train(spec, runs, text, start=tmp_path)


# ------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("documents", ["joined", "masked"])
def test_evaluation_does_not_depend_on_rows_and_adds_up_by_document(documents, text):
    spec = run_spec(text)
    split = prepared_for(spec, text.parent).splits["validation"]
    decoder = Decoder(spec.model, documents=documents == "masked").init_parameters(0)
    found = [evaluate(decoder, split, CONTEXT, documents, rows, by_document=True) for rows in (1, 3, 16)]
    for other in found[1:]:
        assert other.tokens == found[0].tokens
        assert other.nll == pytest.approx(found[0].nll, rel=1e-6)
        assert other.document_tokens == found[0].document_tokens
    assert sum(found[0].by_document) == pytest.approx(found[0].nll, rel=1e-9)
    assert len(found[0].by_document) == len(split.document_offsets)
    assert evaluate(decoder, split, CONTEXT, documents, 4).nll == pytest.approx(found[0].nll, rel=1e-6)
    assert decoder.training
    again = evaluate(decoder, split, CONTEXT, documents, 4)
    assert again == evaluate(decoder, split, CONTEXT, documents, 4)


def test_a_split_of_one_document_adds_up_too(text):
    spec = run_spec(text)
    split = replace(
        prepared_for(spec, text.parent).splits["validation"], document_offsets=np.zeros(1, dtype=np.int64)
    )
    found = evaluate(Decoder(spec.model).init_parameters(0), split, CONTEXT, "joined", 4, by_document=True)
    assert (list(found.by_document), list(found.document_tokens)) == ([found.nll], [found.tokens])


def test_a_limited_look_takes_the_first_windows_whatever_the_rows(text):
    spec = run_spec(text)
    split = prepared_for(spec, text.parent).splits["validation"]
    decoder = Decoder(spec.model).init_parameters(0)
    found = [evaluate(decoder, split, CONTEXT, "joined", rows, tokens=100) for rows in (1, 2, 4, 8)]
    assert {e.tokens for e in found} == {5 * CONTEXT}
    assert [e.nll for e in found] == pytest.approx([found[0].nll] * 4, rel=1e-6)


# ------------------------------------------------------------------------------------ loggers


def test_csv_and_tensorboard_mirror_the_curve(text, tmp_path):
    spec = run_spec(text, steps=4)
    record = train(spec, tmp_path, text, {"logger": LoggerSpec(name="csv")})
    rows = pd.read_csv(tmp_path / record.id / "csv" / "metrics.csv")
    np.testing.assert_allclose(rows["train/loss"].dropna(), curve(tmp_path / record.id)["loss"])
    train(spec, tmp_path, text, {"logger": LoggerSpec(name="tensorboard")}, rerun=True)
    assert list((tmp_path / record.id / "tensorboard").glob("events*"))


def test_wandb_without_a_key_is_offline(text, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = LoggerSpec(name="wandb", project="test", group="g", tags=("a", "b"))
    record = train(run_spec(text, steps=4), tmp_path / "runs", text, {"logger": logger})
    assert record.status == "finished"
    (file,) = (tmp_path / "runs" / record.id / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert record.id.encode() in content
    assert b"validation/loss" in content


def test_what_wandb_mode_asks_for_is_done(tmp_path, monkeypatch):
    spec = LoggerSpec(name="wandb", project="test")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert loggers.make(spec, "0" * 12, tmp_path) is None
    monkeypatch.setattr(loggers.Unreachable, "noticed", False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert loggers.offline(spec)


def test_the_mirror_closes_after_the_record(text, tmp_path, monkeypatch):
    """A run whose record cannot be made is no finished run of the mirror."""
    seen: list[str] = []
    monkeypatch.setattr(loggers.Mirror, "close", lambda self, status, metrics: seen.append(status))
    monkeypatch.setattr(Run, "outcome", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run_spec(text, steps=4), tmp_path, text, {"logger": LoggerSpec(name="csv")})
    assert seen == ["crashed"]


def test_a_mirror_that_breaks_costs_nothing(text, tmp_path, monkeypatch, caplog):
    from lightning.pytorch import loggers as lightning_loggers

    class Broken(lightning_loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            raise ConnectionError("gone")

    monkeypatch.setattr(lightning_loggers, "CSVLogger", Broken)
    record = train(run_spec(text, steps=4), tmp_path, text, {"logger": LoggerSpec(name="csv")})
    assert record.status == "finished"
    assert len(curve(tmp_path / record.id)) == 4
    assert caplog.text.count("going on without it") == 1


# ------------------------------------------------------------------------------------ small things


def test_progress_is_reported_and_lines_are_few(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callback, "OFTEN", 0.0)
    heard: list[Progress] = []
    train(run_spec(text), tmp_path, text, {"progress": "auto"}, on_progress=heard.append)
    assert [p.step for p in heard] == list(range(1, 13))
    assert heard[-1].seconds_left == 0
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 11
    assert all("tokens/s" in line and "left" in line for line in lines)


def test_quiet_is_quiet(text, tmp_path):
    """In a process of its own, where nothing has been silenced yet."""
    spec = run_spec(text, steps=3)
    payload = {
        "spec": spec.model_dump(mode="json"),
        "settings": {"accelerator": "cpu"},
        "runs": str(tmp_path / "runs"),
        "cache": str(text.parent / "cache"),
        "parts": [],
    }
    program = f"from ablate.train.fit import train_work; train_work({payload!r})"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (out.stdout, out.stderr) == ("", "")
    assert [RunRecord.load(p).status for p in (tmp_path / "runs").iterdir()] == ["finished"]


def test_a_worker_leaves_its_record_in_the_outbox(text, tmp_path):
    payload = {
        "spec": run_spec(text, steps=2).model_dump(mode="json"),
        "settings": {"accelerator": "cpu"},
        "runs": str(tmp_path / "runs"),
        "cache": str(text.parent / "cache"),
        "parts": [],
        "outbox": str(tmp_path / "outbox"),
    }
    train_work(payload)
    record = RunRecord.load(tmp_path / "outbox")
    assert record.status == "finished"
    assert not (tmp_path / "runs" / record.id / "record.json").exists()
    assert (tmp_path / "outbox" / "curve.parquet").exists()


def test_the_hash_of_sources_follows_the_parts_that_are_used(text):
    plain, other = run_spec(text), run_spec(text, {"position": "alibi"})
    assert source_hash(plain) == source_hash(run_spec(text, seed=1))
    assert source_hash(plain) != source_hash(other)
    names = {source.name for source in hashed(run_spec(text, {"ffn": MOE}))}
    assert {"moe.py", "glu.py", "width.py", "activation.py", "rmsnorm.py", "bytes.py", "optim.py"} <= names
    assert "mlp.py" not in names


def test_speed_leaves_the_warmup_out():
    speed = Speed()
    for seconds in [5.0, 3.0, *[1.0] * 8, 2.0]:
        speed.add(100, seconds)
    assert speed.median() == 100.0


def test_lines_say_each_tenth_once():
    said: list[str] = []
    lines = Lines(said.append)
    for step in range(1, 1001):
        lines.show(Progress("x", step, 1000, 1.0, None, 10.0, 5.0))
    assert len(said) == 11


@pytest.mark.slow
@pytest.mark.parametrize("stop", [False, True])
def test_several_devices_are_started_from_here(stop, text, tmp_path):
    """Two processes; told to stop, they agree on a step, and go on later."""
    spec = run_spec(text, steps=400 if stop else 12)
    payload = {
        "spec": spec.model_dump(mode="json"),
        "settings": {"accelerator": "cpu", "devices": 2, "strategy": "fsdp", "threads": 1},
        "runs": str(tmp_path / "runs"),
        "cache": str(text.parent / "cache"),
        "parts": [],
    }
    program = f"from ablate.train.fit import train_work; train_work({payload!r})"
    id = spec.id(prepared_for(spec, text.parent).fingerprint)
    process = subprocess.Popen([sys.executable, "-c", program])
    rows = tmp_path / "runs" / id / "curve.jsonl"
    while stop and process.poll() is None and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.05)
    if stop:
        os.kill(process.pid, signal.SIGTERM)
    process.wait()
    record = RunRecord.load(tmp_path / "runs" / id)
    assert record.status == ("interrupted" if stop else "finished")
    train_work({**payload, "rerun": not stop})
    again = RunRecord.load(tmp_path / "runs" / id)
    assert again.status == "finished"
    assert again.provenance["began"] >= record.provenance["ended"]
    assert len(curve(tmp_path / "runs" / id)) == spec.steps
