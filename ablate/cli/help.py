"""The page that `--help` prints: each option with its comment from the YAML, the groups with their choices,
and the studies at hand. It imports nothing heavy."""

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from ablate.cli.exits import WRONG
from ablate.cli.hints import SWEEP, TRAIN, foreign
from ablate.paths import CONF

OPTION = re.compile(r"^(\w+):(?: +(.*?))?(?: +# (.*))?$")
HIDDEN = ("defaults", "hydra")  # keys of the YAMLs that are no options
COLUMN, _WIDTH = 26, 80  # of the names, of their texts

TRAIN_USAGE = """Train one model.

    COMMAND [GROUP=CHOICE | OPTION=VALUE]...
    COMMAND -m seed=0,1,2 ...       a run for each combination

An option is set by its path, model.width=64. Options that a choice does not have yet are added with a plus,
+model.rule=x; ~model.rule takes one away. `COMMAND plan=true ...` shows what would be trained.
"""
SWEEP_USAGE = """Run a study: plan it, train the runs that are missing, score them, and report.

    COMMAND experiment=NAME [OPTION=VALUE]...
"""
FLAGS = """Hydra's own flags: --cfg job (print the whole configuration), --multirun (-m), --hydra-help.
"""


def answer_help(command: str, arguments: Sequence[str]) -> None:
    """Print the help page of train.py or sweep.py and exit, where it is asked for. Exits with 2 where an
    override uses the name of another tool or of an earlier version, with a line for each."""
    if {"--help", "-h"} & {*arguments}:
        page = train_page() if command == "train" else sweep_page(Path.cwd())
        script = sys.argv[0].endswith(".py")
        print(page.replace("COMMAND", f"python {command}.py" if script else f"ablate {command}"))
        raise SystemExit
    lines = foreign(arguments, TRAIN if command == "train" else SWEEP)
    if lines:
        print("\n".join(lines), file=sys.stderr)
        raise SystemExit(WRONG)


def train_page() -> str:
    """The help page of train.py."""
    text = (CONF / "train.yaml").read_text()
    defaults = {
        group: choice
        for entry in yaml.safe_load(text)["defaults"]
        if isinstance(entry, dict)
        for group, choice in entry.items()
        if not group.startswith("override ")
    }
    groups = ["Groups, with the default first:\n", *group_lines(defaults)]
    return "\n".join([TRAIN_USAGE, *groups, *option_lines(text), "", FLAGS])


def sweep_page(folder: Path) -> str:
    """The help page of sweep.py, with the studies that lie in the `experiments` of a folder."""
    text = (CONF / "sweep.yaml").read_text()
    return "\n".join([SWEEP_USAGE, *option_lines(text), "", *study_lines(folder / "experiments"), "", FLAGS])


def option_lines(text: str) -> Iterator[str]:
    """A line for each option of a YAML: its default and its comment, under the comments that are headings."""
    skipping = False
    for line in text.splitlines()[1:]:
        option = OPTION.match(line)
        if option:
            skipping = option[1] in HIDDEN
        if line.startswith("# "):
            skipping = False
            yield f"\n{line[2:].rstrip('.')}:\n"
        elif option and not skipping:
            yield aligned(f"{option[1]}={option[2] or ''}", option[3] or "")


def group_lines(defaults: Mapping[str, str | None]) -> Iterator[str]:
    """A line for each group of conf/, nested ones too, with its choices; those of the working folder's own
    conf/ are among them."""
    own = Path.cwd() / "conf"
    for group, default in defaults.items():
        folder = CONF / group
        for nested in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
            name = nested.relative_to(CONF).as_posix()
            choices = {path.stem for place in (nested, own / name) for path in place.glob("*.yaml")}
            first = default if nested == folder else None
            yield aligned(name, ", ".join(sorted(choices, key=lambda choice: (choice != first, choice))))


def study_lines(experiments: Path) -> Iterator[str]:
    """A line for each study of a folder, with its question."""
    files = sorted(experiments.glob("*/study.yaml"))
    yield f"Studies in {experiments.name}/:\n" if files else f"There are no studies in {experiments}."
    for file in files:
        yield aligned(file.parent.name, question(file))


def question(file: Path) -> str:
    """The question of a study; empty where its file cannot be read."""
    try:
        node = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return " ".join(str(node.get("question", "")).split()) if isinstance(node, dict) else ""


def aligned(name: str, text: str) -> str:
    """A name and its text in two columns; the text begins on a line of its own after a long name."""
    indent = " " * (COLUMN + 4)
    lines = textwrap.wrap(text, _WIDTH, break_on_hyphens=False) or [""]
    if len(name) > COLUMN:
        lines = ["", *lines]
    return "\n".join([f"  {name:<{COLUMN}}  {lines[0]}".rstrip(), *(indent + line for line in lines[1:])])
