"""Train one model: compose -> RunSpec -> train -> record. `python train.py --help` lists the choices."""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float | None:
    from ablate.cli.train import train

    return train(config)


if __name__ == "__main__":
    from ablate.cli.help import answer

    answer("train", sys.argv[1:])
    main()
