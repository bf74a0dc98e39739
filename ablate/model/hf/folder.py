"""The files of a Hugging Face folder: JSON and safetensors, read with bounds, written whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ablate.model.hf.family import CheckpointFormatError, shown
from ablate.record import UMASK

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin.index.json")
WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
TWICE = "consolidated*.safetensors"  # Mistral's own format, beside the one that transformers reads
MOST_JSON = 100_000_000  # bytes


class Header(NamedTuple):
    """A tensor in a file, not yet read."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors calls it: F32, BF16, ...

    @property
    def numel(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product

    def read(self) -> Tensor:
        """The tensor, on the CPU, in its own dtype. Raises CheckpointFormatError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(self.name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointFormatError(f"{self.file}: {self.name} cannot be read: {error}") from None
        return tensor


def headers(folder: Path) -> dict[str, Header]:
    """Every tensor of the folder's *.safetensors. Raises CheckpointFormatError: no tensor may stand in two
    files."""
    found: dict[str, Header] = {}
    files, where = _files(folder)
    for file in files:
        for header in _headers(file):
            if header.name in found:
                first = found[header.name].file.name
                raise CheckpointFormatError(
                    f"{folder}: {header.name} stands in {first} and in {file.name}; take away the file "
                    "that is not the model's"
                )
            found[header.name] = header
    lacking = sorted(name for name in where if name not in found)
    if lacking:
        raise CheckpointFormatError(f"{folder}: {lacking[0]}, named by {_INDEX}, is in none of the files")
    return found


def _headers(file: Path) -> Iterator[Header]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                yield Header(file, name, tuple(part.get_shape()), str(part.get_dtype()))
    except (SafetensorError, OSError) as error:
        raise CheckpointFormatError(f"{file} is damaged: {error}; fetch it again") from None


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files, and what the index says of the tensors in them. Raises CheckpointFormatError."""
    index = folder / _INDEX
    where: dict[str, str] = {}
    files = {file for file in folder.glob("*.safetensors") if not file.match(TWICE)}
    if index.exists():
        where = read_json(index).get("weight_map")  # type: ignore[assignment]
        if not isinstance(where, dict):
            raise CheckpointFormatError(f"{index} has no weight_map")
        for name, file in where.items():
            if not isinstance(file, str) or file in ("", "..") or Path(file).name != file:
                raise CheckpointFormatError(
                    f"{index}: {name} is in {shown(file)}, which is no name of a file beside it"
                )
        named = {folder / file for file in where.values()}
        lost = sorted(path.name for path in named if not path.exists())
        if lost:
            raise CheckpointFormatError(f"{folder}: {', '.join(lost)}, named by {_INDEX}, is not there")
        files |= named
    if not files:
        files = set(folder.glob("*.safetensors"))
    if not files:
        pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
        if pickled:
            raise CheckpointFormatError(
                f"{folder}: {pickled[0]} is pickled, and reading a pickle can run any code; "
                "save the model as safetensors (transformers: save_pretrained)"
            )
        raise CheckpointFormatError(f"{folder} holds no *.safetensors")
    strange = sorted(path.name for path in files if not path.is_file())
    if strange:
        raise CheckpointFormatError(f"{folder / strange[0]} is no regular file")
    return sorted(files), where


def read_json(file: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """Raises CheckpointFormatError, FileNotFoundError."""
    if file.exists() and not file.is_file():
        raise CheckpointFormatError(f"{file} is no regular file")
    if file.stat().st_size > most:
        raise CheckpointFormatError(f"{file} has more than {most:,} bytes")
    try:
        node = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{file} is not JSON: {error}") from None
    if not isinstance(node, dict):
        raise CheckpointFormatError(f"{file} holds no JSON object")
    return node


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends: whole or not at all.

    Raises FileExistsError for a folder that is there and not empty.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is there already, and is no folder")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield aside
        for path in (aside, *aside.rglob("*")):  # mkdtemp and safetensors shut colleagues out
            path.chmod((0o777 if path.is_dir() else 0o666) & ~UMASK)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_json(file: Path, node: Mapping[str, Any]) -> None:
    """Write a node as JSON with sorted keys. Raises ValueError for NaN and infinity."""
    file.write_text(json.dumps(node, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], most: int) -> None:
    """`model.safetensors`, or as many shards with an index as keep each file at `most` bytes.

    As transformers does, tensors keep their order, and one larger than `most` has a file of its own.
    """
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + sizes[name] > most:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += sizes[name]
    files = (
        [WHOLE]
        if len(shards) == 1
        else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    )
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        write_json(folder / _INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})
