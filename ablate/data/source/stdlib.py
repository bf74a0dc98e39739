"""The source text of Python's standard library, which every machine has."""

import hashlib
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.data.source import DataError, Source, SplitName
from ablate.registry import source

WITHOUT = {"test", "idlelib", "lib2to3", "pydoc_data", "encodings"}
INNER_TESTS = {"test", "tests"}  # as in unittest/test: some installations leave them out
_SHARE = 0.05  # of the bytes, for validation and for heldout


@source("stdlib", paper="The Python standard library; https://docs.python.org/3/license.html")
class Stdlib(Source):
    """Source text of the running interpreter's standard library. A document is a file.

    Split by top-level module, so that no module stands in two splits: about 90/5/5 of the bytes. The text
    varies with the Python version; the manifest says which it was.
    """

    def documents(self, split: SplitName) -> Iterator[str]:
        files = modules()
        for module in sorted(deal({name: total_size(files[name]) for name in files})[split]):
            for file in files[module]:
                with tokenize.open(file) as f:  # honours a coding cookie
                    text = f.read()
                if text:
                    yield text

    def change_stamp(self) -> Any:
        seen = [[module, [signature(file) for file in files]] for module, files in modules().items()]
        return [sys.version, seen]


def modules() -> dict[str, list[Path]]:
    """The Python files of each top-level module. Raises DataError if the interpreter has no source text."""
    library = Path(sysconfig.get_path("stdlib"))
    found = {name: module_files(library, name) for name in sorted(sys.stdlib_module_names - WITHOUT)}
    found = {name: there for name, there in found.items() if there}
    if not found:
        raise DataError(
            f"stdlib: this Python has no source text in {library}; use data=text with files of yours"
        )
    return found


def module_files(library: Path, module: str) -> list[Path]:
    """The Python files of one top-level module, without tests inside of it."""
    package = library / module
    if package.is_dir():
        every = sorted(package.rglob("*.py"), key=lambda p: p.relative_to(library).parts)
        return [p for p in every if not INNER_TESTS & set(p.relative_to(package).parts[:-1])]
    single = library / f"{module}.py"
    return [single] if single.is_file() else []


def total_size(files: list[Path]) -> int:
    """The bytes of some files together."""
    return sum(file.stat().st_size for file in files)


def signature(file: Path) -> list[Any]:
    """Name, size, times (ns) and inode: what changes when a file is written."""
    seen = file.stat()
    return [str(file), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def deal(sizes: dict[str, int]) -> dict[SplitName, list[str]]:
    """Modules (name -> bytes) to splits: in the order of their names' hashes, each goes to heldout while
    it fits into its share, then to validation, then to training."""
    room = _SHARE * sum(sizes.values())
    left: dict[SplitName, float] = {"heldout": room, "validation": room}
    dealt: dict[SplitName, list[str]] = {"train": [], "validation": [], "heldout": []}
    for name in sorted(sizes, key=lambda n: hashlib.sha256(n.encode()).digest()):
        split: SplitName = next((s for s in left if sizes[name] <= left[s]), "train")
        dealt[split].append(name)
        if split in left:
            left[split] -= sizes[name]
    return dealt
