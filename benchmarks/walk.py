"""How many files a reader walks through, from a command to what it is for: counted on a real run.

    python benchmarks/walk.py [--list]

Two walks are followed by `sys.setprofile` over the functions of the package: `train.py model/position=alibi`
up to the first loss, and a study of two arms from `sweep.py` to its first verdict. Calls while a module is
imported are left out, and so are worker processes. Of each walk this prints

    way       the files on the call stack at the end: the column that leads from the command to the goal
    entered   all files that were entered by then, by the room in which they lie
    climbs    calls from a file to one on a higher floor, by pair of files; the floors are those of the
              import contract. A part that the registry makes or asks is a dispatch, counted apart.
    models    how often a decoder was built, on the meta device or in memory
"""

import argparse
import os
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ablate"
RUN = ["data=text", "data/tokenizer=bytes", "model.width=16", "model.depth=1", "model.heads=2"]
RUN += ["model.context=16", "budget.tokens=128", "budget.batch_tokens=64", "evaluation.every=0"]
STUDY = """
question: Does position matter?
base: [{base}]
axis: [model.position]
baseline: rope
arms: {{rope: [], alibi: [model/position=alibi]}}
placebo: false
seeds: 2
tune: fixed
metric: validation/loss
"""
COMMANDS = ("train.py", "sweep.py")  # above all floors
REGISTRIES = ("registry.py", "spec.py")  # they call parts by name


class Arrived(Exception):
    """Not raised for an error: it marks the end of a walk."""


class Walk:
    """Follows calls between the files of the package until `goal` (a file and a function) is called; with
    `inside`, only where that file is on the stack already."""

    def __init__(self, goal: tuple[str, str], inside: str = "") -> None:
        self.goal, self.inside = goal, inside
        self.entered: dict[str, None] = {}
        self.climbs: Counter[tuple[str, str]] = Counter()
        self.dispatched: Counter[tuple[str, str]] = Counter()
        self.models = 0
        self.stays = 0
        self.here = ""
        self.importing = 0
        self.way: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        file = place(frame)
        if frame.f_code.co_name == "<module>" and file not in COMMANDS:
            self.importing += 1 if event == "call" else -1
        if self.importing or not file or event == "return" or self.way:
            return
        self.entered.setdefault(file)
        self.stays += file != self.here
        self.here = file
        caller = above(frame)
        if caller and floor(file) < floor(caller):
            kind = self.dispatched if caller in REGISTRIES else self.climbs
            kind[caller, file] += 1
        self.models += (file, frame.f_code.co_name) == ("model/decoder.py", "__init__")
        if (file, frame.f_code.co_name) == self.goal:
            stack = column(frame)
            if not self.inside or self.inside in stack:
                self.way = stack
                sys.setprofile(None)


def place(frame: FrameType | None) -> str:
    """The file of a frame below the package, or the command; empty for any other."""
    if frame is None:
        return ""
    file = frame.f_code.co_filename
    if file.startswith(f"{PACKAGE}{os.sep}"):
        return Path(file).relative_to(PACKAGE).as_posix()
    return Path(file).name if Path(file).parent == ROOT and Path(file).name in COMMANDS else ""


def above(frame: FrameType) -> str:
    """The file that called, over frames of other packages."""
    caller = frame.f_back
    while caller is not None and not place(caller):
        caller = caller.f_back
    return place(caller)


def column(frame: FrameType | None) -> list[str]:
    """The files on the stack from the command down, each stretch once."""
    files: list[str] = []
    while frame is not None:
        file = place(frame)
        if file and (not files or files[-1] != file):
            files.append(file)
        frame = frame.f_back
    return files[::-1]


def floors() -> list[str]:
    """The floors of the house, from the top: those of the import contract, with the rooms of a study."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {contract["name"].partition(" ")[0]: contract.get("layers", []) for contract in contracts}
    rooms: list[str] = []
    for layer in layers["Floors"]:
        rooms.append(layer)
        if "ablate.study" in layer:
            rooms += [f"ablate.study.{room}" for room in layers["Inside"]]
    return rooms


FLOORS = floors()


def floor(file: str) -> int:
    """The floor of a file: 0 for the commands, then from the top of the house down. A file that no contract
    names stands at the bottom."""
    if file in COMMANDS:
        return 0
    module = f"ablate.{file.removesuffix('.py').replace('/', '.')}"
    best, length = len(FLOORS), 0
    for number, layer in enumerate(FLOORS, 1):
        for room in layer.split(" | "):
            if (module == room or module.startswith(f"{room}.")) and len(room) > length:
                best, length = number, len(room)
    return best


def follow(walk: Walk, script: str, given: list[str], folder: Path) -> None:
    """Run a command in this process under the profile."""
    import runpy

    before, sys.argv = Path.cwd(), [script, *given]
    os.chdir(folder)
    try:
        sys.setprofile(walk)
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
        os.chdir(before)


def show(title: str, walk: Walk, every: bool) -> None:
    if not walk.way:
        raise SystemExit(f"{title}: the walk did not arrive")
    rooms = Counter(file.partition("/")[0] if "/" in file else "top" for file in walk.entered)
    print(f"{title}\n  way      {len(set(walk.way))} files: {' -> '.join(walk.way)}")
    each = ", ".join(f"{room} {number}" for room, number in rooms.items())
    print(f"  entered  {len(walk.entered)} files: {each}")
    print(f"  climbs   {len(walk.climbs)} pairs of files, and {len(walk.dispatched)} dispatches")
    for lower, upper in walk.climbs:
        print(f"           {lower} -> {upper}")
    print(f"  models   built {walk.models} times")
    if every:
        for file in walk.entered:
            print(f"           {file}")


def main() -> None:
    chosen = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chosen.add_argument("--list", action="store_true", help="name every file and every climb")
    every = chosen.parse_args().list
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="ablate-walk-") as temporary:
        folder = Path(temporary)
        text = folder / "a.txt"
        text.write_text("\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200)))
        files = f"data.source.files=[{text}]"
        walk = Walk(("model/head.py", "sums"), "train/task.py")
        follow(walk, "train.py", [*RUN, files, "trainer=cpu", "model/position=alibi"], folder)
        show("train.py model/position=alibi: to the loss", walk, every)

        study = folder / "experiments" / "walk"
        study.mkdir(parents=True)
        base = ", ".join(f'"{override}"' for override in [*RUN, files])
        (study / "study.yaml").write_text(STUDY.format(base=base))
        walk = Walk(("study/judge/compare.py", "compare"))
        follow(walk, "sweep.py", ["experiment=walk", "slots=1"], folder)
        show("sweep.py: an arm to its verdict", walk, every)


if __name__ == "__main__":
    main()
