"""`sweep.py compare=`: a run whose record is damaged is left out with a line, and stops nothing."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ablate.cli.compare_runs import compare_runs
from ablate.cli.compose import ConfigError
from ablate.record import RunRecord


def save(place: Path, eps: float, seed: int) -> Path:
    folder = place / f"{eps}-{seed}"
    said = {"init": seed, "data": seed, "dropout": seed, "redraw": []}
    RunRecord(
        id=folder.name,
        status="finished",
        source_hash="c",
        spec={"model": {"norm": {"name": "rms", "eps": eps}}, "precision": "fp32", "seed": said},
        fingerprint={},
        metrics={"validation/loss": 3.0 + eps + seed / 7 + eps * seed / 50},
        kernel="sdpa",
    ).save(folder)
    return folder


@pytest.mark.parametrize("damage", ["nan", "bytes"])
def test_a_damaged_record_is_left_out_with_a_line(tmp_path: Path, damage: str) -> None:
    folders = [save(tmp_path, eps, seed) for eps in (0.25, 0.5) for seed in range(4)]
    file = folders[0] / "record.json"
    file.write_bytes(b"\xff{" if damage == "bytes" else file.read_bytes().replace(b"3.25", b"NaN"))
    console = Console(width=300, record=True, file=io.StringIO())
    compare_runs(f"{tmp_path}/*", console)
    said = console.export_text()
    assert f"Left out: {file} is not a record" in said
    assert "7 runs differ in model.norm.eps" in said


def test_where_all_are_damaged_there_is_nothing_to_compare(tmp_path: Path) -> None:
    (save(tmp_path, 0.25, 0) / "record.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no folder of .* holds a record that can be read"):
        compare_runs(f"{tmp_path}/*", Console(file=io.StringIO()))
