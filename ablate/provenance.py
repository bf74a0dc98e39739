"""Where and with what a number was made: machine, libraries, commit of the sources."""

import os
import platform
import subprocess
import sys
import tomllib
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ablate.paths import PACKAGE


def provenance(device: str, devices: int, strategy: str) -> dict[str, Any]:
    """Where and with what a run was made."""
    import lightning
    import torch

    kind = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ablate": package_version(),
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
def package_version() -> str:
    """The version of this package: of its metadata, or, in a clone that is not installed, of pyproject.toml;
    `unknown` where there is neither."""
    with suppress(PackageNotFoundError):
        return version("ablate")
    with suppress(OSError, ValueError, KeyError):
        return str(tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["version"])
    return "unknown"


@lru_cache
def processor() -> str:
    """The model name of the processor."""
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
