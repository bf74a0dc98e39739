"""Answer a question: load a study, check every arm, run what is missing, score, report."""

import sys

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablate.paths import CONF

# Stored rather than searched for in conf/, whose groups are those of train.py.
OPTIONS = OmegaConf.load(CONF / "sweep.yaml")
ConfigStore.instance().store("sweep", OPTIONS)


@hydra.main(config_path=None, config_name="sweep", version_base="1.3")
def main(config: DictConfig) -> None:
    from ablate.cli.sweep import sweep

    sweep(config)


if __name__ == "__main__":
    from ablate.cli.help import answer

    answer("sweep", sys.argv[1:])
    main()
