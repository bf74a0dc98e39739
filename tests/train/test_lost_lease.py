"""A run that another process has taken over stops, and what the other has written stays."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from training import QUIET, prepared_for, run_spec, write_text

from ablate.cli.train import stop_training
from ablate.engine import worker
from ablate.engine.lease import LeaseLost, take
from ablate.engine.store import Store
from ablate.record import RunRecord
from ablate.train.fit import perform_request
from ablate.train.monitor.interrupt import Interrupt
from ablate.train.request import RunRequest
from ablate.train.state.weights import WEIGHTS_FILE


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


THEIRS = (
    WEIGHTS_FILE,
    Path("curve.jsonl"),
    Path("curve.parquet"),
    Path("tokenizer/x"),
    Path("checkpoint/theirs/state"),
)


def successor(folder: Path) -> None:
    """What another process has written of the same run."""
    for name in THEIRS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)  # they rename theirs into place
        (folder / name).write_text("theirs")


@pytest.mark.parametrize("way", ["unaware", "told", "diverging", "checkpoints"])
def test_a_holder_that_lost_its_lease_writes_nothing_over_its_successors_work(way, text, tmp_path):
    options = {"optim": {"name": "sgd", "lr": 1e6}, "clip": None} if way == "diverging" else {}
    spec = run_spec(text, **options)
    prepared = prepared_for(spec, text.parent)
    folder, claim = tmp_path / "runs" / spec.id(prepared.fingerprint), tmp_path / "claim"
    claim.mkdir()

    def taken_over(*given: Any) -> None:
        if not claim.exists():
            return
        shutil.rmtree(claim)
        successor(folder)
        if way == "told":
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *given: None)
    settings = QUIET.model_copy(update={"checkpoint_steps": 3} if way == "checkpoints" else {})
    request = RunRequest(
        spec=spec,
        settings=settings,
        runs=tmp_path / "runs",
        cache=text.parent / "cache",
        outbox=tmp_path / "outbox",
        claim=claim,
    )
    try:
        if way == "diverging":  # it has a record, which the store will not take
            assert perform_request(request, prepared, taken_over).status == "diverged"
        else:
            with pytest.raises(LeaseLost):
                perform_request(request, prepared, taken_over)
            assert not (tmp_path / "outbox").exists()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert {name: (folder / name).read_text() for name in THEIRS} == dict.fromkeys(THEIRS, "theirs")
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["theirs"]
    assert not (folder / "record.json").exists()


def test_train_py_stops_when_its_lease_is_lost(text, tmp_path):
    """As `ablate.cli.train.run` trains: under a lease, told by the heartbeat."""
    spec = run_spec(text, steps=100_000)
    prepared = prepared_for(spec, text.parent)
    store, id = Store(tmp_path), spec.id(prepared.fingerprint)
    job = worker.Job(id, {}, spec=spec.model_dump(mode="json"), fingerprint=prepared.fingerprint)
    reports: list[worker.WorkerReport] = []

    def taken_over(*given: Any) -> None:
        claim = store.folder(id) / "lease" / "1"
        if not (store.folder(id) / "lease" / "2").exists():
            claim.write_text(json.dumps({**json.loads(claim.read_text()), "started": 1}))
            assert take(store.folder(id)) is not None

    before = signal.signal(signal.SIGTERM, lambda *given: None)
    try:
        with worker.hold_lease(store, [job], reports.append, lost=stop_training, every=0.02) as (payloads, _):
            places = {name: Path(payloads[0][name]) for name in ("outbox", "claim")}
            request = RunRequest(
                spec=spec, settings=QUIET, runs=tmp_path, cache=text.parent / "cache", **places
            )
            perform_request(request, prepared, taken_over)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [report.status for report in reports] == ["lost"]
    assert store.find(id) is None and not (store.folder(id) / "checkpoint").exists()


def test_a_process_that_listens_to_no_signal_is_not_ended():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        stop_training()
        with Interrupt() as stop:
            stop_training()
            assert stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_whose_lease_is_held_leaves_its_record(text, tmp_path):
    spec = run_spec(text, steps=2)
    (tmp_path / "claim").mkdir()
    request = RunRequest(
        spec=spec, settings=QUIET, runs=tmp_path, cache=text.parent / "cache", claim=tmp_path / "claim"
    )
    assert perform_request(request) == RunRecord.load(
        tmp_path / spec.id(prepared_for(spec, text.parent).fingerprint)
    )
