"""A cache of tokenised text whose held-out split is empty: what the runs of a campaign are trained from.

It has the name and the content hash of the whole cache, so that a run is the same run by its id. The referee
scores with the whole one.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.prepare import Prepared
from ablate.data.sound import held_in, sha256
from ablate.record import atomic, content_hash

SPLIT = "heldout"
MEMOS = "texts"  # of manifests, so that no run reads the source again


def withhold(prepared: Prepared, place: Path) -> Path:
    """Copy a cache into `place`, its held-out split emptied; returns `place`, to be given as a run's cache.

    Files are linked where the file system allows it. What is there already is left as it is."""
    folder = place / prepared.folder.name
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(prepared.folder.parent / MEMOS, place / MEMOS, dirs_exist_ok=True)
    if folder.is_dir():
        return place
    aside = place / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    held = held_in(prepared.folder)
    for name in held["files"]:
        if not name.startswith(f"{SPLIT}."):
            _link(prepared.folder / name, aside / name)
    for name in [name for name in held["files"] if name.startswith(f"{SPLIT}.")]:
        (aside / name).touch()
    np.save(aside / f"{SPLIT}.starts.npy", np.empty(0, dtype=np.int64), allow_pickle=False)
    with atomic(aside / "cache.json") as file:
        whole = _emptied(held, aside)
        file.write(json.dumps({**whole, "hash": content_hash(whole)}, indent=1).encode())
    try:
        os.replace(aside, folder)
    except OSError:  # another process was first
        shutil.rmtree(aside, ignore_errors=True)
    return place


def _emptied(held: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What cache.json says once the held-out split has no tokens."""
    mine = [name for name in held["files"] if name.startswith(f"{SPLIT}.")]
    return {
        **held,
        "counts": {**held["counts"], SPLIT: {"tokens": 0, "bytes": 0}},
        "sizes": {**held["sizes"], **{name: (folder / name).stat().st_size for name in mine}},
        "files": {**held["files"], **{name: sha256(folder / name) for name in mine}},
    }


def _link(old: Path, new: Path) -> None:
    with suppress(OSError):
        os.link(old, new)
        return
    shutil.copy2(old, new)
