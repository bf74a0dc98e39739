"""Checkpoints to resume from: `runs/<id>/checkpoint/<code>-<step>`, the last two.

Each is written aside and renamed, so what has the name is whole as far as this program can see to it; what
the disk does later is found out before it is used.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from ablate.record import atomic

log = logging.getLogger("ablate.train")

KEPT = 2


class Durable(TorchCheckpointIO):
    """Lightning's file, but on the disk before it has its name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic(Path(path)) as f:
            torch.save(checkpoint, f)


class Checkpoints:
    """Those of one run, made by sources with the hash `code`."""

    def __init__(self, folder: Path, code: str):
        self.folder, self.code = folder / "checkpoint", code

    def save(self, trainer: Trainer, step: int) -> None:
        """After `step` steps. All ranks must call it together."""
        name = f"{self.code}-{step:09d}"
        aside = self.folder / f".{name}.part"
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove(aside)
        trainer.strategy.barrier("checkpoint")
        trainer.save_checkpoint(aside, weights_only=False)
        trainer.strategy.barrier("checkpoint")
        if trainer.is_global_zero:
            sync(aside)
            remove(self.folder / name)
            os.replace(aside, self.folder / name)
            for old in self.paths()[KEPT:]:
                remove(old)

    def paths(self) -> list[Path]:
        """The newest first."""
        found = [p for p in self.folder.glob(f"{self.code}-*") if p.name.rpartition("-")[2].isdecimal()]
        return sorted(found, key=lambda p: p.name, reverse=True)

    def newest(self) -> Path | None:
        """The newest that can be read. Says which cannot, and whether the run starts over."""
        foreign = [p for p in self.folder.glob("[!.]*") if p not in self.paths()]
        if foreign and not self.paths():
            log.warning("%s is of other sources than those of today; starting over", foreign[0])
        for path in self.paths():
            wrong = damage(path)
            if not wrong:
                return path
            log.warning("the checkpoint %s cannot be read (%s); it is passed over", path, wrong)
        if self.paths():
            log.warning("no checkpoint of %s can be read; starting over", self.folder.parent)
        return None

    def drop(self) -> None:
        remove(self.folder)


def steps_done(path: Path | None) -> int:
    return 0 if path is None else int(path.name.rpartition("-")[2])


def damage(path: Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        for file in _files(path):
            torch.load(file, map_location="cpu", weights_only=True)
        if path.is_dir():
            _read_shards(path)
    except Exception as error:  # whatever a broken file leads to
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _files(path: Path) -> Iterator[Path]:
    """Those that Lightning wrote with `torch.save`."""
    from lightning.fabric.strategies.fsdp import _METADATA_FILENAME

    yield path / _METADATA_FILENAME if path.is_dir() else path


def _read_shards(folder: Path) -> None:
    """Raises if a shard is missing or shorter than its index says."""
    from torch.distributed.checkpoint import FileSystemReader

    index = FileSystemReader(folder).read_metadata()
    for piece in (index.storage_data or {}).values():
        size = (folder / piece.relative_path).stat().st_size
        if size < piece.offset + piece.length:
            raise ValueError(f"{piece.relative_path} is cut short")


def sync(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb") as f:
            os.fsync(f.fileno())


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
