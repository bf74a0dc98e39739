"""docs/architecture.md shows the floors that import-linter enforces, and names files that exist."""

import re
import tomllib
from pathlib import Path

import grimp

from ablate.paths import PACKAGE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_the_floors_are_those_of_the_contract():
    table = PAGE.split("<!-- floors: begin -->")[1].split("<!-- floors: end -->")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    layers = next(c["layers"] for c in CONTRACTS if c["name"] == "Floors are never climbed")
    assert rows == [[name.strip().removeprefix("ablate.") for name in layer.split("|")] for layer in layers]


def test_the_column_of_a_study_is_that_of_the_contract():
    column = PAGE.split("```text\n")[1].split("```")[0]
    layers = next(c["layers"] for c in CONTRACTS if c.get("containers") == ["ablate.study"])
    assert [line.split()[0] for line in column.splitlines()] == layers


def test_every_file_that_is_named_exists():
    named = [name for name in re.findall(r"`([\w/]+\.py)`", PAGE) if name not in ("train.py", "sweep.py")]
    assert named
    assert not [name for name in named if not (PACKAGE / name).is_file()]


def test_no_import_cycles():
    graph = grimp.build_graph("ablate", exclude_type_checking_imports=True)
    names = sorted(graph.modules)
    upstream = {name: graph.find_upstream_modules(name) for name in names}
    assert not [name for name in names if name in upstream[name]]
    circles = {frozenset((a, b)) for a in names for b in upstream[a] if a in upstream[b]}
    assert not circles
