"""Any finished runs, compared by the options in which they differ."""

import glob
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.cli.compose import Mistaken
from ablate.cli.show import print_verdicts
from ablate.record import RunRecord
from ablate.study.judge import adhoc
from ablate.study.judge.compare import compare


def compare_loose(node: dict[str, Any], console: Console) -> None:
    """Any finished runs, compared by the options in which they differ."""
    folders = sorted(Path(p) for p in glob.glob(str(node["runs"])) if (Path(p) / "record.json").is_file())
    records = [RunRecord.load(folder) for folder in folders]
    if not records:
        raise Mistaken([f"runs: no folder of {node['runs']} holds a record.json"])
    found = adhoc.gather(records)
    for warning in found.mixed:
        console.print(Text(f"Mixed: {warning}", style="yellow"))
    if not found.axes:
        raise ValueError(
            f"{len(records)} runs, and nothing but the seed differs: there is nothing to compare"
        )
    console.print(
        Text(f"{len(records)} runs differ in {', '.join(found.axes)}. Exploratory: nothing was declared.")
    )
    print_verdicts(console, compare(found.frame, found.baseline, found.metric, None, "paired"))
