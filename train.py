"""Train one model: compose -> RunSpec -> fit -> record. `python train.py --help` lists the choices."""

from ablate.cli.entry import train_main

if __name__ == "__main__":
    train_main()
