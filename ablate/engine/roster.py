"""What a study has asked the engine to do: a list of its runs beside them, so that a look at the folder says
how far the study is. It decides nothing; the records are the truth.

    runs/.studies/<name>.json     replaced whole whenever the list grows
"""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from ablate.record import atomic
from ablate.spec import Strict

FOLDER_OF_ROSTERS = ".studies"


class RosterRun(Strict):
    """One run of a list, as a person knows it. `source_hash` is that of the sources which asked for it."""

    id: str
    label: str
    arm: str
    role: str
    source_hash: str
    steps: NonNegativeInt


class Roster(Strict):
    """The runs that a study is known to need. `complete` is false while more follow from the tuning.

    `slots` is how many runs the engine that wrote the list does at a time.
    """

    study: str
    runs: tuple[RosterRun, ...]
    slots: PositiveInt
    complete: bool
    engine: str = "local"

    def save(self, root: Path) -> None:
        """Put the list beside the runs in `root`."""
        file = roster_file(root, self.study)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as f:
            f.write(self.model_dump_json().encode())


def load_roster(root: Path, study: str) -> Roster:
    """The list of a study. Raises FileNotFoundError, or ValueError for a file that is no such list."""
    file = roster_file(root, study)
    content = file.read_bytes()
    try:
        return Roster.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "whole file"
        reason = f"{file} is no list of runs: {place}: {first['msg']}"
        raise ValueError(f"{reason}; run the study again to replace it") from None


def roster_file(root: Path, study: str) -> Path:
    """Where the list of a study lies."""
    return root / FOLDER_OF_ROSTERS / f"{study}.json"


def listed_studies(root: Path) -> list[str]:
    """The names of the studies that have a list in `root`."""
    return sorted(file.stem for file in (root / FOLDER_OF_ROSTERS).glob("[!.]*.json"))
