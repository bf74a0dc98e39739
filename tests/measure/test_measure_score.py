"""Measures on a real run: added to its record from the stored weights, and looks counted."""

from pathlib import Path
from typing import Any

import pytest
from training import QUIET, prepared_for, run_spec, write_text

from ablate.engine.lease import take
from ablate.measure import Measured
from ablate.measure.score import MeasureError, after, measure_hashes, missing, score, score_work
from ablate.record import RunRecord
from ablate.registry import measure
from ablate.spec import RunSpec
from ablate.train.fit import fit
from ablate.train.request import RunRequest

NAMES = ("length", "stability", "cost")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a run, and the cache."""
    place = tmp_path_factory.mktemp("scored")
    spec = run_spec(write_text(place))
    record = fit(spec, prepared_for(spec, place), QUIET, place / "runs")
    return place / "runs" / record.id, place / "cache"


def test_measures_join_the_record_and_a_sealed_split_counts_as_a_look(run, monkeypatch):
    folder, cache = run
    monkeypatch.chdir(folder.parent.parent)  # stability finds the curve in runs/
    before = RunRecord.load(folder)
    for name, heldout_reads in zip(NAMES, (1, 1, 1), strict=True):
        record = score(folder, cache, [name])
        assert record.heldout_reads == before.heldout_reads + heldout_reads
        assert not missing(record, measure_hashes([name]))
    assert record == RunRecord.load(folder)
    assert score(folder, cache, NAMES) == record  # nothing is measured twice
    for name in ("length/sliding/ratio/8x", "stability/gradient_max", "cost/kv_bytes_per_token"):
        assert name in record.metrics
    assert record.metrics["stability/clipped_loss"] == before.metrics["validation/loss"]
    assert len(record.vectors["length/by_position/8x"]) == 64
    assert all(name.split("/")[0] in NAMES for name in set(record.metrics) - set(before.metrics))


def test_what_another_process_measured_meanwhile_stays(run, monkeypatch):
    folder, cache = run
    before = RunRecord.load(folder)

    class Slow:
        def __call__(self, *given) -> Measured:
            there = RunRecord.load(folder)
            metrics = {**there.metrics, "other/number": 1.0}
            there.model_copy(update={"metrics": metrics, "heldout_reads": there.heldout_reads + 1}).save(
                folder
            )
            return Measured({"heldout/loss": 2.0}, {})

    monkeypatch.setattr("ablate.measure.score.missing", lambda record, names: names)
    monkeypatch.setattr(measure, "build", lambda name: Slow())
    record = score(folder, cache, ["heldout"])
    assert record.metrics["other/number"] == 1 and record.metrics["heldout/loss"] == 2
    assert record.heldout_reads == before.heldout_reads + 2 and record == RunRecord.load(folder)
    before.save(folder)


@pytest.mark.parametrize(
    ("said", "found", "strange"),
    [
        (
            {},
            Measured({"mine/number": 1.0, "validation/loss": 0.0}, {}),
            r"gives mine/\*, and found validation/loss",
        ),
        ({}, Measured({}, {"validation/loss": []}), "and found validation/loss"),
        (
            {"metrics": ("number",)},
            Measured({"mine/numbr": 1.0}, {}),
            "gives mine/number, and found mine/numbr",
        ),
    ],
)
def test_a_measure_gives_what_it_says_under_its_own_name(said, found, strange, run, own_parts):
    folder, cache = run
    before = RunRecord.load(folder)
    measure("mine", paper="ours")(type("Mine", (), {**said, "__call__": lambda *given: found}))
    with pytest.raises(MeasureError, match=strange):
        score(folder, cache, ["mine"])
    assert RunRecord.load(folder) == before


def payload(folder, cache, measures: list[str]) -> dict[str, Any]:
    """What asked for the run in the folder, and asks for these measures of it."""
    spec = RunSpec.model_validate(RunRecord.load(folder).spec)
    places = {"runs": folder.parent, "cache": cache}
    return RunRequest(spec=spec, settings=QUIET, measures=tuple(measures), **places).payload()


def test_a_measure_that_fails_is_a_line_and_no_traceback(run, own_parts):
    def fails(*given):
        raise RuntimeError("no room")

    folder, cache = run
    measure("mine", paper="ours")(type("Mine", (), {"__call__": fails}))
    said = score_work(folder, payload(folder, cache, ["mine"]))
    assert said == f"{folder}: RuntimeError: no room"


def test_what_cannot_be_scored_is_said(run, tmp_path):
    folder, cache = run
    record = RunRecord.load(folder)
    with pytest.raises(MeasureError, match=r"no measure is called validation; there are .*heldout"):
        score(folder, cache, ["heldout", "validation"])  # a name of the record's, but no measure's
    record.model_copy(update={"status": "diverged"}).save(tmp_path)
    assert score(tmp_path, cache, []).status == "diverged"
    with pytest.raises(MeasureError, match="is diverged, not finished"):
        score(tmp_path, cache, ["heldout"])


def test_the_worker_that_trained_a_run_scores_it_if_the_job_says_so(run):
    folder, cache = run
    known = RunRecord.load(folder)
    after(folder, payload(folder, cache, []))
    assert RunRecord.load(folder) == known
    after(folder, payload(folder, cache, ["heldout"]))
    assert RunRecord.load(folder) == score(folder, cache, ["heldout"]) != known


def test_a_run_that_another_process_holds_is_not_scored(run, monkeypatch):
    folder, cache = run
    known = RunRecord.load(folder)
    monkeypatch.setattr("ablate.measure.score.LEASE_PATIENCE", 0.0)
    monkeypatch.setattr("ablate.measure.score.missing", lambda record, names: names)
    lease = take(folder)
    with pytest.raises(MeasureError, match="another process holds the run"):
        score(folder, cache, ["cost"])
    lease.release()

    class Slow:
        def __call__(self, *given) -> Measured:
            self.lease = take(folder)  # a training that begins meanwhile
            return Measured({"cost/kv_bytes_per_token": 2.0}, {})

    slow = Slow()
    monkeypatch.setattr(measure, "build", lambda name: slow)
    with pytest.raises(MeasureError, match="another process holds the run"):
        score(folder, cache, ["cost"])
    slow.lease.release()
    assert RunRecord.load(folder) == known


def test_numbers_of_weights_that_were_replaced_meanwhile_are_not_recorded(run, monkeypatch):
    folder, cache = run
    known = RunRecord.load(folder)

    class Slow:
        def __call__(self, *given) -> Measured:
            known.model_copy(update={"weights_hash": "other"}).save(folder)
            return Measured({"cost/kv_bytes_per_token": 2.0}, {})

    monkeypatch.setattr("ablate.measure.score.missing", lambda record, names: names)
    monkeypatch.setattr(measure, "build", lambda name: Slow())
    with pytest.raises(MeasureError, match="was trained again while it was scored"):
        score(folder, cache, ["cost"])
    assert RunRecord.load(folder).metrics == known.metrics
    known.save(folder)
