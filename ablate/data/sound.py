"""Whether a cache of tokens is what was written."""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.source import SPLITS
from ablate.record import atomic, content_hash

LARGE = 1 << 33  # bytes of a cache that take too long to be hashed by each process

HASHED: dict[Path, dict[str, list[int]]] = {}  # caches that this process has hashed: their files' signatures

log = logging.getLogger("ablate.data")


def is_whole(folder: Path, content: Any) -> bool:
    """Whether the cache is there and undamaged."""
    if not folder.is_dir():
        return False
    wrong = cache_damage(folder, content)
    if wrong:
        log.warning("data: the cache %s is damaged (%s); building it anew", folder, wrong)
    return not wrong


def cache_damage(folder: Path, content: Any) -> str:
    """What is wrong with a cache; empty if nothing is. Its files are hashed when a process first opens it and
    again when they were touched; those of a LARGE cache only if they were."""
    try:
        held = held_in(folder)
        if held["content"] != content:
            return "cache.json speaks of another text or tokenizer"
        for name, size in cached_sizes(held).items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size} bytes, not {size}"
        seen = signatures(folder, held["files"])
        known = sum(held["sizes"].values()) >= LARGE and not touched(folder, seen)
        if not known and HASHED.get(folder) != seen:
            for name, expected in held["files"].items():
                if sha256(folder / name) != expected:
                    return f"{name} has another hash"
            mark_untouched(folder, seen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def held_in(folder: Path) -> dict[str, Any]:
    """What cache.json says. Raises ValueError where it is not what was written."""
    held: dict[str, Any] = json.loads((folder / "cache.json").read_bytes())
    if not isinstance(held, dict) or held.pop("hash", None) != content_hash(held):
        raise ValueError("cache.json is not what was written")
    return held


def cached_sizes(held: Mapping[str, Any]) -> dict[str, int]:
    """The bytes of each file, where tokens and marks take as many as their number says."""
    found = dict(held["sizes"])
    for name in SPLITS:
        tokens = held["counts"][name]["tokens"]
        found[f"{name}.tokens"] = tokens * np.dtype(held["dtype"]).itemsize
        if f"{name}.scored" in found:
            found[f"{name}.scored"] = tokens
    return found


def touched(folder: Path, seen: Mapping[str, list[int]]) -> bool:
    """Whether a file of a cache is other than when the cache was last found sound."""
    try:
        return bool(json.loads((folder / "untouched.json").read_bytes()) != seen)
    except (OSError, ValueError):
        return True


def mark_untouched(folder: Path, seen: dict[str, list[int]]) -> None:
    """Remember that a cache was found sound with these signatures."""
    HASHED[folder] = seen
    with suppress(OSError), atomic(folder / "untouched.json") as file:
        file.write(json.dumps(seen).encode())


def signatures(folder: Path, names: Mapping[str, str]) -> dict[str, list[int]]:
    """The size, times and inode of each file of a cache, which change whenever its content does."""
    seen = {name: (folder / name).stat() for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in seen.items()}


def sha256(path: Path) -> str:
    """The SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
