"""The two Hydra commands: `train.py` and `sweep.py` of a clone, `ablate train` and `ablate sweep`."""

import sys
from contextlib import suppress

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ablate.cli.help import answer_help
from ablate.paths import CONF


def train_main() -> None:
    """Train one model, or several with `-m`; the arguments are Hydra's, read from sys.argv."""
    answer_help("train", sys.argv[1:])
    load_named_parts(sys.argv[1:])
    _train()


def sweep_main() -> None:
    """Answer a question; the arguments are Hydra's, read from sys.argv."""
    answer_help("sweep", sys.argv[1:])
    # Stored rather than searched for in conf/, where the groups are those of train.py.
    ConfigStore.instance().store("sweep", OmegaConf.load(CONF / "sweep.yaml"))
    _sweep()


def load_named_parts(overrides: list[str]) -> None:
    """Load the files that `parts=[...]` names, so that `model/ffn=NAME` finds a part of one's own.

    What cannot be loaded is reported when the configuration is checked.
    """
    named = [override for override in overrides if override.lstrip("+").startswith("parts=")]
    if not named:
        return
    from ablate.registry import load_parts

    with suppress(HydraException, ImportError):
        for override in OverridesParser.create().parse_overrides(named):
            places = override.value()
            if isinstance(places, list):
                load_parts(places)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> float | None:
    from ablate.cli.train import train

    return train(config)


@hydra.main(config_path=None, config_name="sweep", version_base="1.3")
def _sweep(config: DictConfig) -> None:
    from ablate.cli.sweep import sweep

    sweep(config)
