"""What a benchmark measured: `benchmarks/results/<name>.json`, of which `report.py` makes RESULTS.md.

    rows = [["tiny", 0.8e6, ratios]]
    save("loop", [Table("fit / bare", ["model", "parameters", "ratio"], rows)])

A cell is text, a number, null, or the list of what its rounds measured: that is shown as its median and
range, so the figures of the report are the raw numbers.
"""

import json
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ablate.provenance import git, processor
from ablate.record import atomic

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "lightning", "transformers", "litgpt", "x-transformers")
SETTINGS = ("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # what changes speed

Cell = str | int | float | None | list[float]


@dataclass(frozen=True)
class Table:
    """`note` stands below the table: what the columns mean, and what is to be read off."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.title}: {len(self.columns)} columns, and a row {wrong[0]}")


def save(name: str, tables: list[Table], about: str = "", clock: str = "") -> Path:
    """Write `results/<name>.json`. `about` says what was measured, `clock` with which one (`Clock.name`)."""
    found = {
        "name": name,
        "about": about,
        "command": shlex.join(["python", *sys.argv]),
        "clock": clock,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **versions()},
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
        "git": git(),
        "tables": [asdict(table) for table in tables],
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    with atomic(file) as f:
        f.write((json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    return file


def load() -> list[dict[str, Any]]:
    """All that is saved, by name."""
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def hardware() -> dict[str, Any]:
    """`busy` is the load of the machine (processes that ran or waited, over the last minute)."""
    found: dict[str, Any] = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "busy": round(os.getloadavg()[0], 1),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Of the packages that are there."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
