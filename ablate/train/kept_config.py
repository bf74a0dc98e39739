"""The composed configuration of a run, kept beside its record as Hydra users expect it.

python train.py --config-path $PWD/runs/<id> --config-name config
"""

from pathlib import Path
from typing import Any

import yaml

from ablate.record import atomic
from ablate.train.request import RunRequest

CONFIG_FILE = "config.yaml"
CONFIG_HEADER = (
    "# What this run was asked to do, composed. The record is the truth; nothing reads this file by itself.\n"
    "# Callbacks and profilers are left out: what lies in a run's folder names no code.\n"
)
# As in conf/train.yaml, so that Hydra makes no folder of its own.
HYDRA_KEYS: dict[str, Any] = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"dir": "${runs}", "subdir": "."},
}


def kept_config(request: RunRequest) -> dict[str, Any]:
    """The configuration in the layout of conf/train.yaml."""
    settings = request.settings.model_dump(mode="json")
    beside = {name: settings.pop(name) for name in ("keep", "logger")}
    return {
        **request.spec.model_dump(mode="json"),
        "trainer": settings,
        **beside,
        "parts": list(request.parts),
        "init_from": None if request.start is None else str(request.start),
        "plan": False,
        "rerun": False,
        "runs": str(request.runs),
        "cache": str(request.cache),
        "objective": "validation/loss",
        "sample": {"prompt": "", "tokens": 0},
        "hydra": HYDRA_KEYS,
    }


def keep_config(request: RunRequest, folder: Path) -> None:
    """Write the configuration beside the record."""
    with atomic(folder / CONFIG_FILE) as f:
        f.write((CONFIG_HEADER + yaml.safe_dump(kept_config(request), sort_keys=False)).encode())
