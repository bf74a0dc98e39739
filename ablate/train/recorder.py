"""The curve of a run while it grows, and what its record says of speed, memory and origin."""

import json
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

from ablate.record import atomic, read_lines

COLUMNS = {
    "step": "int64",
    "tokens": "int64",
    "loss": "float64",
    "lr": "float64",
    "grad_norm": "float64",
    "validation_loss": "float64",
    "seconds": "float64",
}
Row = dict[str, float | int | None]


class Curve:
    """Rows by step. They grow in `curve.jsonl`, flushed row by row, so that a hard kill loses the last at
    most, and synced with each checkpoint, so that a power cut loses none that is not made again;
    `curve.parquet` is written whole at the end. A resumed run drops the rows it will make again."""

    def __init__(self, folder: Path, done: int = 0):
        """`done` steps lie before the checkpoint that the run goes on from."""
        self.folder = folder
        whole = takewhile(lambda row: row.keys() == COLUMNS.keys(), read_lines(folder / "curve.jsonl"))
        self.rows: list[Row] = [row for row in whole if (row["step"] or 0) <= done]
        with atomic(folder / "curve.jsonl") as f:
            f.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self.file = (folder / "curve.jsonl").open("a", buffering=1)

    @property
    def end(self) -> int:
        """The step of the last row."""
        return int(self.rows[-1]["step"] or 0) if self.rows else 0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def finish(self) -> None:
        """Write `curve.parquet`."""
        import pandas as pd

        self.close()
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)
        with atomic(self.folder / "curve.parquet") as f:
            f.write(frame.to_parquet(index=False))
        (self.folder / "curve.jsonl").unlink()


class Speed:
    """Tokens per second of training: the median over rows, but for the first tenth (at least two)."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def add(self, tokens: int, seconds: float) -> None:
        self.rates.append(tokens / max(seconds, 1e-9))

    def recent(self) -> float:
        return median(self.rates[-20:])

    def median(self) -> float | None:
        warm = self.rates[max(2, len(self.rates) // 10) :] or self.rates[-1:]
        return median(warm) if warm else None


class Memory:
    """Peak bytes since it was made: of the device where there is a GPU, else resident ones of the process."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):  # Linux: the peak starts anew
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> dict[str, float]:
        if self.device == "cuda":
            import torch

            return {"peak_device_bytes": float(torch.cuda.max_memory_allocated())}
        with suppress(OSError, StopIteration):
            status = Path("/proc/self/status").read_text().splitlines()
            line = next(line for line in status if line.startswith("VmHWM"))
            return {"peak_resident_bytes": float(line.split()[1]) * 1024}
        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak_resident_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit}


def provenance(device: str, devices: int, strategy: str) -> dict[str, Any]:
    """Where and with what a run was made."""
    import lightning
    import torch

    kind = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ablate": version("ablate"),
        "git": git(),
        "device": device,
        "device_kind": kind,
        "devices": devices,
        "strategy": strategy,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "command": sys.argv,
    }


@lru_cache
def processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


@lru_cache
def git() -> str | None:
    """The commit of the sources, with `+` where they differ from it; None outside of a repository."""
    here = Path(__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    return None


def _git(where: Path, *words: str) -> str:
    out = subprocess.run(
        ["git", "-C", str(where), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return out.stdout.strip()
