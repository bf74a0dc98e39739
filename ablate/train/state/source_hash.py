"""Which sources made a run."""

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.metadata import packages_distributions
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ablate.paths import PACKAGE
from ablate.registry import Options, registries
from ablate.spec import RunSpec

# All Python files of these folders and these files count, but for those below.
COUNTED = ("data", "model", "parts", "train", "pattern.py", "registry.py", "spec.py")
# What a run may import although it decides no number of it, and why.
NOT_DECIDING = {
    "__init__.py": "names the public interface",
    "amounts.py": "writes amounts for people",
    "data/__init__.py": "is empty",
    "data/ngrams.py": "counts n-grams, for reports",
    "explain.py": "says what is wrong with an input",
    "engine": "decides who does a run, and when",
    "errors.py": "names what can go wrong",
    "measure": "acts after training; each measure has a hash of its own (`measure_hash`)",
    "model/generate.py": "decodes, after training",
    "model/hf": "reads and writes the weights of others",
    "model/packed.py": "joins matrices for decoding",
    "model/pool.py": "converts weights between runs",
    "paths.py": "says where the package is",
    "provenance.py": "describes the machine",
    "record.py": "stores numbers and makes none",
    "train/kept_config.py": "writes down what was asked for",
    "train/monitor/loggers.py": "copies numbers to trackers",
    "train/monitor/trackio_logger.py": "copies numbers to trackers",
    "train/monitor/utilisation.py": "divides speeds, for trackers",
    "train/speed/compile_gain.py": "measures whether compiling pays",
    "train/speed/ensemble_gain.py": "measures whether an ensemble pays",
    "train/speed/timing.py": "keeps these measurements",
}


def source_hash(spec: RunSpec) -> str:
    """12 hex digits over the contents of the sources that a run uses. Parts that the run does not name are
    left out, but kernels stand in for each other (`auto`), so all of them count. A file is known by its name,
    not by where it lies."""
    return _digest(hashed(spec))


def hashed(spec: RunSpec) -> set[Path]:
    """The files that decide the numbers of a run: those of the package, and a user's own."""
    used = {path for part in chosen_parts(spec) for path in sources(part)}
    optional = {path for kind in registries if kind != "kernel" for path in defining(kind)}
    return used | {path for path in package_files() if path not in optional}


def measure_hash(name: str) -> str:
    """12 hex digits over the sources of a measure: its own files, and what measures share."""
    options = registries["measure"].parse(name)
    shared = set((PACKAGE / "measure").glob("*.py")) - defining("measure")
    return _digest(sources(options) | shared)


def package_files() -> set[Path]:
    """The files of the package that decide the numbers of some run."""
    places = [PACKAGE / name for name in COUNTED]
    files = {path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))}
    return {path for path in files if reason(path) is None}


def reason(path: Path) -> str | None:
    """Why a file of the package decides no number of a run; None where it may."""
    name = path.relative_to(PACKAGE).as_posix()
    said = (why for place, why in NOT_DECIDING.items() if name == place or name.startswith(f"{place}/"))
    return next(said, None)


def defining(kind: str) -> set[Path]:
    """The files in which the parts of a kind are registered."""
    registry = registries[kind]
    return {registry[name].source.resolve() for name in registry}


def chosen_parts(node: Any) -> Iterator[Options]:
    """Every part in a specification, those inside other parts too."""
    if isinstance(node, Options):
        yield node
    if isinstance(node, BaseModel):
        for field in type(node).model_fields:
            yield from chosen_parts(getattr(node, field))
    elif isinstance(node, dict):
        for value in node.values():
            yield from chosen_parts(value)


def sources(part: Options) -> set[Path]:
    """The file of a part; of a user's own part also what that file imports of the user's own."""
    source = part.entry.source.resolve()
    return {source} if source.is_relative_to(PACKAGE) else set(imported(source))


@lru_cache(maxsize=1024)
def imported(file: Path) -> frozenset[Path]:
    """A file of one's own, and those that it imports, but for what is installed."""
    root = next(folder for folder in file.parents if not (folder / "__init__.py").is_file())
    name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    installed = packages_distributions().keys() - {name.split(".")[0]}
    finder = ModuleFinder([str(root)], excludes=[PACKAGE.name, *installed])
    if root == file.parent:
        finder.run_script(str(file))
    else:
        finder.import_hook(name)
    files = (getattr(module, "__file__", None) for module in finder.modules.values())
    return frozenset(Path(each).resolve() for each in files if each)


def _digest(files: set[Path]) -> str:
    lines = sorted(f"{_name(path)} {_hash(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name


@cache
def _hash(path: Path) -> str:
    """As the file was when this process first asked: what is edited later, it has not imported."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


for _file in {*(PACKAGE / "measure").glob("*.py"), *package_files()}:
    _hash(_file)
