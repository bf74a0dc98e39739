"""Which sources made a run."""

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import packages_distributions
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import ablate
from ablate.registry import Options, registries
from ablate.spec import RunSpec

PACKAGE = Path(ablate.__file__).parent
ALWAYS = ("model", "data", "train")  # folders of the package
# What is there only for other runs (sources and tokenizers count by name) or acts after training.
ASIDE = (
    "data/source",
    "data/tokenizer",
    "model/generate.py",
    "model/hf",
    "model/packed.py",
    "model/pool.py",
    "train/compiled.py",
    "train/gain.py",
    "train/measure",
    "train/score.py",
    "train/timing.py",
    "train/trained.py",
)


def code(spec: RunSpec) -> str:
    """12 hex digits over the contents of the sources that a run uses: the files of its parts, `ablate.model`,
    `ablate.data`, `ablate.train` and the contracts. A file is known by its name, not by where it lies."""
    files = {path for part in parts(spec) for path in sources(part)}
    files.add(PACKAGE / "parts" / "base.py")
    for folder in ALWAYS:
        files |= {path for path in (PACKAGE / folder).rglob("*.py") if not aside(path)}
    hashes = sorted(f"{_name(path)} {_hash(path)}" for path in files)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:12]


def aside(path: Path) -> bool:
    return path.relative_to(PACKAGE).as_posix().startswith(ASIDE)


def parts(node: Any) -> Iterator[Options]:
    """Every part in a specification, those inside other parts too."""
    if isinstance(node, Options):
        yield node
    if isinstance(node, BaseModel):
        for field in type(node).model_fields:
            yield from parts(getattr(node, field))
    elif isinstance(node, dict):
        for value in node.values():
            yield from parts(value)


def sources(part: Options) -> set[Path]:
    """The file of a part, and the files beside it in its home that define no part but may be imported.
    Kernels stand in for each other (`auto`), so all of them count. Of a part of one's own: its file, and
    what that imports of one's own."""
    source = part.entry.source.resolve()
    registry = registries[part.kind]
    for home in getattr(import_module(registry.home), "__path__", []):
        if source.parent == Path(home).resolve():
            defining = {registry[name].source.resolve() for name in registry if part.kind != "kernel"}
            return {source, *(p for p in source.parent.glob("*.py") if p.resolve() not in defining)}
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


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name


@cache
def _hash(path: Path) -> str:
    """As the file was when this process first asked: what is edited later, it has not imported."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


for _folder in ("parts", *ALWAYS):
    for _file in (PACKAGE / _folder).rglob("*.py"):
        _hash(_file)
