"""What runs tell trackers: one name for each number, wherever it is read."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from training import QUIET, curve, prepared_for, run_spec, write_text

from ablate.measure.score import score
from ablate.record import RunRecord
from ablate.train.fit import fit
from ablate.train.monitor import loggers
from ablate.train.monitor.utilisation import Pace, peak_flops
from ablate.train.settings import LoggerSpec


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def train(text: Path, runs: Path, logger: LoggerSpec) -> RunRecord:
    spec = run_spec(text, steps=4)
    return fit(spec, prepared_for(spec, text.parent), QUIET.model_copy(update={"logger": logger}), runs)


def test_every_number_has_one_name_in_sections(text, tmp_path):
    record = train(text, tmp_path, LoggerSpec(name="csv", peak_flops=1e9))
    rows = pd.read_csv(tmp_path / record.id / "csv" / "metrics.csv")
    named = {name for name in rows.columns if "/" in name}
    assert {name.split("/")[0] for name in named} == {"train", "validation", "speed"}
    assert {name for name in rows.columns if "/" not in name} == {"step", "tokens", "flops"}
    assert rows["validation/loss"].iloc[-1] == pytest.approx(record.metrics["validation/loss"])
    ours = pd.read_parquet(tmp_path / record.id / "curve.parquet")
    seconds = ours["seconds"].diff().fillna(ours["seconds"])
    tokens = ours["tokens"].diff().fillna(ours["tokens"])
    there = rows.dropna(subset=["speed/tokens_per_second"])
    assert there["speed/tokens_per_second"].tolist() == pytest.approx((tokens / seconds).tolist())
    mfu = there["speed/tokens_per_second"] * record.counts["training_flops"] / 1e9
    assert there["speed/mfu"].tolist() == pytest.approx(mfu.tolist())


def test_the_configuration_names_costs_kernel_devices_and_hashes(text, tmp_path):
    record = train(text, tmp_path, LoggerSpec(name="csv"))
    said = yaml.safe_load((tmp_path / record.id / "csv" / "hparams.yaml").read_text())
    assert (said["source_hash"], said["fingerprint"]) == (record.source_hash, record.fingerprint)
    assert (said["kernel"], said["device"], said["devices"]) == (record.kernel, "cpu", 1)
    assert said["counts"] == record.counts


def test_utilisation_needs_a_known_peak():
    assert peak_flops("NVIDIA H200", "bf16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA L4", "fp32") == 30.3e12
    assert peak_flops("Intel(R) Xeon(R) Processor", "fp32") is None
    assert Pace(100.0, None)(10, 2.0) == {"speed/tokens_per_second": 5.0}
    pace = Pace(100.0, 1000.0)
    pace.pass_over(10, 2.0)
    assert pace(20, 4.0) == {"speed/tokens_per_second": 5.0, "speed/mfu": 0.5}
    assert pace(20, 4.0) == {}


def test_without_trackio_a_run_goes_on_and_the_fix_is_named(text, tmp_path, monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "trackio", None)
    assert train(text, tmp_path, LoggerSpec(name="trackio")).status == "finished"
    assert "pip install 'ablate[trackio]'" in caplog.text


def test_trackio_keeps_the_curve_and_the_scores(text, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    logger = LoggerSpec(name="trackio", project="position", run_name="alibi seed 3", config={"arm": "alibi"})
    record = train(text, tmp_path / "runs", logger)
    scored = score(tmp_path / "runs" / record.id, text.parent, ["heldout"])
    loggers.mirror_scores(logger, scored, tmp_path / "runs" / record.id)
    (run,) = trackio.Api().runs("position")
    assert run.name == f"alibi seed 3 {record.id}" and run.config["arm"] == "alibi"
    from trackio.sqlite_storage import SQLiteStorage

    rows = pd.DataFrame(SQLiteStorage.get_logs("position", run.name))
    losses = rows.dropna(subset=["train/loss"])["train/loss"]
    assert losses.tolist() == pytest.approx(curve(tmp_path / "runs" / record.id)["loss"].tolist())
    assert rows["heldout/loss"].dropna().tolist() == [pytest.approx(scored.metrics["heldout/loss"])]
