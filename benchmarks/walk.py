"""How many files a reader walks through, from a command to what it is for: counted on a real run.

    python benchmarks/walk.py [--list]

Two walks are followed by `sys.setprofile` over the functions of the package: `train.py model/position=alibi`
up to the first loss, and a study of two arms from `sweep.py` to its first verdict. Calls while a module is
imported are left out, and so are worker processes. Of each walk this prints

    walk      the files on the call stack at each station, each file once: what a reader opens who follows
              the value from the command to the goal, and the climbs among them
    entered   all files that were entered by then, by the room in which they lie
    climbs    calls from a file to one on a higher floor, by pair of files; the floors are those of the
              import contract. A part that the registry makes or asks is a dispatch, counted apart.
    models    how often a decoder was built, on the meta device or in memory
"""

import argparse
import itertools
import os
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

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


class Station(NamedTuple):
    """Where a walk comes by: the first call of a function of a file, with `inside` on the stack already."""

    title: str
    file: str
    function: str
    inside: str = ""


class Walk:
    """Follows calls between the files of the package until the last of its stations."""

    def __init__(self, *stations: Station) -> None:
        self.ahead = list(stations)
        self.stacks: dict[str, list[str]] = {}  # of the stations that were come by
        self.entered: dict[str, None] = {}
        self.climbs: Counter[tuple[str, str]] = Counter()
        self.dispatched: Counter[tuple[str, str]] = Counter()
        self.models = 0
        self.stays = 0
        self.here = ""
        self.importing = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        file = place(frame)
        if frame.f_code.co_name == "<module>" and file not in COMMANDS:
            self.importing += 1 if event == "call" else -1
        if self.importing or not file or event == "return" or not self.ahead:
            return
        self.entered.setdefault(file)
        self.stays += file != self.here
        self.here = file
        caller = above(frame)
        if caller and floor(file) < floor(caller):
            kind = self.dispatched if caller in REGISTRIES else self.climbs
            kind[caller, file] += 1
        self.models += (file, frame.f_code.co_name) == ("model/decoder.py", "__init__")
        for station in self.ahead:
            if (file, frame.f_code.co_name) == (station.file, station.function):
                stack = column(frame)
                if not station.inside or station.inside in stack:
                    self.stacks[station.title] = stack
                    self.ahead.remove(station)
                    break
        if not self.ahead:
            sys.setprofile(None)

    @property
    def files(self) -> list[str]:
        """What a reader opens: the files of all stacks, each once."""
        return list(dict.fromkeys(file for stack in self.stacks.values() for file in stack))

    @property
    def climbs_on_the_way(self) -> list[tuple[str, str]]:
        """Calls to a higher floor on the stacks, but for those of the registry."""
        pairs = [pair for stack in self.stacks.values() for pair in itertools.pairwise(stack)]
        return [(a, b) for a, b in dict.fromkeys(pairs) if floor(b) < floor(a) and a not in REGISTRIES]


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
    if walk.ahead:
        raise SystemExit(f"{title}: the walk did not arrive at {walk.ahead[0].title}")
    rooms = Counter(file.partition("/")[0] if "/" in file else "top" for file in walk.entered)
    climbs = walk.climbs_on_the_way
    print(f"{title}\n  walk     {len(walk.files)} files, {len(climbs)} climbs")
    known: set[str] = set()
    for name, stack in walk.stacks.items():
        new = [file for file in dict.fromkeys(stack) if file not in known]
        known.update(new)
        print(f"           {name}: {', '.join(new)}")
    for lower, upper in climbs:
        print(f"           climb: {lower} -> {upper}")
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
        walk = Walk(
            Station("the option is checked", "spec.py", "_spell_out", "cli/compose.py"),
            Station("the part is made", "parts/position/alibi.py", "__init__", "train/fit.py"),
            Station("a batch is drawn", "data/stream.py", "batch", "train/task.py"),
            Station("the part acts", "parts/position/alibi.py", "bias", "train/task.py"),
            Station("the loss", "model/head.py", "sums", "train/task.py"),
        )
        follow(walk, "train.py", [*RUN, files, "trainer=cpu", "model/position=alibi"], folder)
        show("train.py model/position=alibi: to the loss", walk, every)

        study = folder / "experiments" / "walk"
        study.mkdir(parents=True)
        base = ", ".join(f'"{override}"' for override in [*RUN, files])
        (study / "study.yaml").write_text(STUDY.format(base=base))
        walk = Walk(
            Station("the study is read", "study/design/study.py", "parse_study"),
            Station("the arm is planned", "study/design/gates.py", "facts"),
            Station("its runs are asked for", "engine/launch.py", "launch"),
            Station("its results are gathered", "study/results/collect.py", "collect"),
            Station("the verdict", "study/judge/compare.py", "compare"),
        )
        follow(walk, "sweep.py", ["experiment=walk", "slots=1"], folder)
        show("sweep.py: an arm to its verdict", walk, every)


if __name__ == "__main__":
    main()
