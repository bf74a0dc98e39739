"""What the package imports is declared in pyproject.toml."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The top-level modules that are neither Python's nor ours."""
    names = set()
    for path in [*(ROOT / "ablate").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"ablate", "hydra_plugins"}


def test_every_import_is_declared():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    lines = [*PROJECT["dependencies"], *extras]
    declared = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}
    homes = packages_distributions()
    of_modules = {name: {normal(home) for home in homes.get(name, [name])} for name in imported()}
    assert len(of_modules) > 15
    assert not {name: homes for name, homes in of_modules.items() if not homes & declared}


def test_what_is_tested_with_is_exact_and_within_what_is_promised():
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    exact = dict(line.split("==") for line in lines)
    assert sorted(exact) == list(exact) == [normal(name) for name in exact]
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        if normal(wanted.name) != "ablate":
            assert wanted.specifier.contains(exact[normal(wanted.name)], prereleases=True), line
    text = (ROOT / "Makefile").read_text()
    assert text.count("--constraint constraints.txt --editable") == text.count("--editable")
