"""The two Hydra commands: `train.py` and `sweep.py` of a clone, `ablate train` and `ablate sweep`."""

import sys

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablate.cli.own_parts import load_named_parts
from ablate.paths import CONF


def train_main() -> None:
    """Train one model, or several with `-m`; the arguments are Hydra's, read from sys.argv."""
    load_named_parts(sys.argv[1:])
    _train()


def sweep_main() -> None:
    """Answer a question; the arguments are Hydra's, read from sys.argv."""
    # Stored rather than searched for in conf/, where the groups are those of train.py.
    ConfigStore.instance().store("sweep", OmegaConf.load(CONF / "sweep.yaml"))
    _sweep()


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> None:
    from ablate.cli.train import train

    train(config)


@hydra.main(config_path=None, config_name="sweep", version_base="1.3")
def _sweep(config: DictConfig) -> None:
    from ablate.cli.sweep import sweep

    sweep(config)
