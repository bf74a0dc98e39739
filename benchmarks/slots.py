"""How busy the slots of the committed studies were: the time in runs over the time there was.

    python benchmarks/slots.py [--slots 2]

From the begin and end of every run, as their records say. From the first begin of a study to its last end,
the pauses between tuning and tests included; scoring comes after the last run, and is not.
"""

from argparse import ArgumentParser
from pathlib import Path

import pandas as pd
from record import Cell, Table, save

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
NOTE = "Target: at least 0.92. A run's time is taken with all slots busy."


def used(runs: pd.DataFrame, slots: int) -> list[Cell]:
    """Runs, minutes and the share of the slots' time."""
    runs = runs.drop_duplicates("id").dropna(subset=["origin/ended"])
    began, ended = (pd.to_datetime(runs[f"origin/{name}"], format="ISO8601") for name in ("began", "ended"))
    busy = (ended - began).dt.total_seconds().sum()
    whole = (ended.max() - began.min()).total_seconds()
    return [len(runs), whole / 60, busy / (slots * whole)]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=2, help="that the studies had")
    given = parser.parse_args()
    files = sorted(EXPERIMENTS.glob("*/results/runs.parquet"))
    kept = [file for file in files if file.parts[-3] != "quickstart"]
    rows = [[file.parts[-3], *used(pd.read_parquet(file), given.slots)] for file in kept]
    table = Table("Slots in use", ["study", "runs", "minutes", "share"], rows, NOTE)
    save("slots", [table], __doc__.split("\n")[0], "the records of the runs")


if __name__ == "__main__":
    main()
