"""Meters of a run: its speed and its memory."""

import resource
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median


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
