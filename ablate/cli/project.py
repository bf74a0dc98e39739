"""`ablate init`: a project folder of one's own, copied from the package."""

import shutil
from pathlib import Path

from ablate.paths import PACKAGE

TEMPLATE = PACKAGE / "project"


def make_project(folder: Path) -> list[str]:
    """Copy the template into a folder, and return what to say of it: each file, then the next commands.

    Raises FileExistsError where a file of the template is there already; nothing is written then.
    """
    files = sorted(path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*") if path.is_file())
    files = [file for file in files if "__pycache__" not in file.parts]
    there = [folder / file for file in files if (folder / file).exists()]
    if there:
        raise FileExistsError(f"{there[0]} is there already; choose another folder")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE / file, folder / file)
    into = [] if folder.resolve() == Path.cwd() else [f"  cd {folder}"]
    next_commands = [
        "  ablate sweep experiment=first plan=true   # what it would cost and could decide",
        "  ablate sweep experiment=first             # run, score, report",
    ]
    return [*(str(folder / file) for file in files), "", "Next:", *into, *next_commands]
