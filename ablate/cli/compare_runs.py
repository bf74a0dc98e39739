"""Any finished runs, compared by the options in which they differ."""

import glob
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ablate.cli.compose import ConfigError
from ablate.cli.show import print_verdicts
from ablate.record import RunRecord
from ablate.study.judge import adhoc
from ablate.study.judge.compare import compare


def compare_runs(pattern: str, console: Console) -> None:
    """Compare the finished runs whose folders match a glob, by the options in which they differ. Raises
    ConfigError where there are none, ValueError where nothing but the seed differs."""
    folders = sorted(Path(p) for p in glob.glob(pattern) if (Path(p) / "record.json").is_file())
    records = []
    for folder in folders:
        try:
            records.append(RunRecord.load(folder))
        except (ValueError, OSError) as error:  # as a run that is missing
            console.print(Text(f"Left out: {error}", style="yellow"), soft_wrap=True)
    if not records:
        raise ConfigError([f"compare: no folder of {pattern} holds a record that can be read"])
    gathered = adhoc.gather_arms(records)
    for warning in gathered.mixed:
        console.print(Text(f"Mixed: {warning}", style="yellow"))
    if not gathered.axes:
        raise ValueError(
            f"{len(records)} runs, and nothing but the seed differs: there is nothing to compare"
        )
    console.print(
        Text(f"{len(records)} runs differ in {', '.join(gathered.axes)}. Exploratory: nothing was declared.")
    )
    print_verdicts(console, compare(gathered.frame, gathered.baseline, gathered.metric, None, "paired"))
