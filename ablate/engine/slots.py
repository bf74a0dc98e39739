"""The slots of a machine: room for one device of a run each."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Room for one device of a run. `gpu` is as in CUDA_VISIBLE_DEVICES; None is a CPU core."""

    name: str
    gpu: str | None = None
    threads: int = 1


def cpu_slots(number: int | None = None) -> list[Slot]:
    """One for each core that this process may use, or `number`."""
    if number is None:
        number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [Slot(f"cpu{n}") for n in range(number)]


def gpu_slots(gpus: Sequence[str] | None = None, each: int = 1) -> list[Slot]:
    """`each` runs side by side on each GPU. Without `gpus`: CUDA_VISIBLE_DEVICES, else all of nvidia-smi.

    Raises ValueError where there is none.
    """
    if gpus is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = _nvidia() if visible is None else [g for g in visible.split(",") if g]
    if not gpus:
        raise ValueError("no GPU found (CUDA_VISIBLE_DEVICES, nvidia-smi); use CPU slots or name the GPUs")
    threads = max(1, len(cpu_slots()) // (len(gpus) * each))
    return [Slot(f"gpu{gpu}.{n}", gpu, threads) for n in range(each) for gpu in gpus]


def _nvidia() -> list[str]:
    try:
        out = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return []
    return out.stdout.split() if out.returncode == 0 else []
