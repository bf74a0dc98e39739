"""Train one model: compose -> RunSpec -> fit -> record. `python train.py --help` lists the choices."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    from ablate.cli.train import train

    train(config)


if __name__ == "__main__":
    main()
