"""Checkpoints to resume from: the last two of `runs/<id>/checkpoint/<code>-<step>/`.

    state         what Lightning saves: a file, or a folder of shards
    hashes.json   the SHA-256 of each of its files

Each is written aside and renamed, so what has the name is whole; what the disk does to it later is found out
before it is used (torch.load would not notice a changed byte).
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from lightning.pytorch import Trainer

log = logging.getLogger("ablate.train")

KEPT = 2


class Checkpoints:
    """Those of one run, made by sources with the hash `code`."""

    def __init__(self, folder: Path, source_hash: str, name: str = "checkpoint", kept: int | None = KEPT):
        self.folder, self.source_hash = folder / name, source_hash
        self.kept = kept  # the newest of them; None: all

    def save(self, trainer: Trainer, step: int) -> None:
        """After `step` steps. All ranks must call it together."""
        name = f"{self.source_hash}-{step:09d}"
        aside = self.folder / f".{name}"
        if trainer.is_global_zero:
            remove(aside)
            aside.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint")
        trainer.save_checkpoint(aside / "state")
        trainer.strategy.barrier("checkpoint")
        if trainer.is_global_zero:
            (aside / "hashes.json").write_text(json.dumps(hashes(aside / "state")))
            sync(aside)
            remove(self.folder / name)
            os.replace(aside, self.folder / name)
            there = self.paths()
            passed = [path for path in there if steps_done(path) > step]
            for old in passed + (there[len(passed) + self.kept :] if self.kept else []):
                remove(old)

    def paths(self) -> list[Path]:
        """The newest first."""
        return sorted(self.folder.glob(f"{self.source_hash}-*"), key=steps_done, reverse=True)

    def newest(self) -> Path | None:
        """The newest that is sound. Says which are not, and whether the run starts over."""
        known = self.paths()
        foreign = [path for path in self.folder.glob("[!.]*") if path not in known]
        if foreign and not known:
            log.warning("%s was made by other sources than those of today; starting over", foreign[0])
        for path in known:
            wrong = checkpoint_damage(path)
            if not wrong:
                return path
            log.warning("the checkpoint %s cannot be used (%s); it is passed over", path, wrong)
        if known:
            log.warning("no checkpoint in %s can be used; starting over", self.folder)
        return None

    def drop(self) -> None:
        remove(self.folder)


def steps_done(path: Path | None) -> int:
    """The optimizer steps that a checkpoint's name tells; 0 without one."""
    return 0 if path is None else int(path.name.rpartition("-")[2])


def checkpoint_damage(path: Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        written = json.loads((path / "hashes.json").read_bytes())
        found = hashes(path / "state")
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(written, dict) or not found:
        return "hashes.json or what it is of is missing"
    wrong = [name for name in sorted(written.keys() | found.keys()) if written.get(name) != found.get(name)]
    return f"not as it was written: {', '.join(wrong)}" if wrong else ""


def checkpoint_files(path: Path) -> list[Path]:
    """All files of a checkpoint, which is a file or a folder."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def hashes(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint, by its path."""
    found = {}
    for file in checkpoint_files(path):
        with file.open("rb") as f:
            found[file.relative_to(path.parent).as_posix()] = hashlib.file_digest(f, "sha256").hexdigest()
    return found


def sync(path: Path) -> None:
    """On the disk before it has its name."""
    for file in checkpoint_files(path):
        with file.open("rb") as f:
            os.fsync(f.fileno())


def remove(path: Path) -> None:
    """Remove a checkpoint that is a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
