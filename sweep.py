"""Answer a question: load a study, check every arm, run what is missing, score, report."""

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

# Stored rather than searched for in conf/, where `experiment` is a group of train.py.
OPTIONS = OmegaConf.load(Path(__file__).parent / "conf" / "sweep.yaml")
ConfigStore.instance().store("sweep", OPTIONS)


@hydra.main(config_path=None, config_name="sweep", version_base="1.3")
def main(config: DictConfig) -> None:
    from ablate.cli.sweep import sweep

    sweep(config)


if __name__ == "__main__":
    main()
