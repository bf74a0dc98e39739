"""A decoder's weights as one safetensors file, whole and unsharded, under the decoder's own names."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate.errors import AblateError
from ablate.model.decoder import Decoder
from ablate.record import RunRecord, atomic

WEIGHTS_FILE = Path("weights") / "model.safetensors"
_NAMED = 8  # tensors in one message


class WeightsMismatch(AblateError, ValueError):
    """Weights that do not fit the model, with the names of those that do not, or a damaged file."""


def collect_weights(decoder: Decoder) -> dict[str, Tensor]:
    """Whole tensors on the CPU. All ranks must call it; where the model is sharded, only rank 0 gets them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = get_model_state_dict(decoder, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor for name, tensor in whole.items() if isinstance(tensor, Tensor)}


def save(state: dict[str, Tensor], file: Path) -> str:
    """Write the file. Returns its SHA-256, for the record."""
    from safetensors.torch import save as to_bytes

    file.parent.mkdir(parents=True, exist_ok=True)
    content = to_bytes({name: tensor.contiguous() for name, tensor in state.items()})
    with atomic(file) as f:
        f.write(content)
    return hashlib.sha256(content).hexdigest()


def file_hash(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def verify(file: Path) -> None:
    """Compare a run's weights with the hash in its record. Raises WeightsMismatch; FileNotFoundError or
    ValueError where the record is missing or damaged."""
    said = RunRecord.load(file.parents[1]).weights_hash
    if file_hash(file) != said:
        why = (
            "is damaged or was replaced: its hash is not the one in the run's record"
            if said
            else "cannot be checked: the run's record has no hash of it"
        )
        raise WeightsMismatch(
            f"{file} {why}; restore it from a copy, or train that run again with rerun=true"
        )


@contextmanager
def fitting(ours: Mapping[str, Tensor], file: Path) -> Iterator[Any]:
    """The open file, of whose tensors only the shapes were read, once its hash was found to be the one in
    the run's record. Raises WeightsMismatch, FileNotFoundError."""
    from safetensors import SafetensorError, safe_open

    from ablate.model.hf.opened import is_foreign

    if is_foreign(file.parents[1]):
        yield _fitting(ours, _Imported(file.parents[1]), file.parents[1])
        return
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: no weights were kept; train that run again with keep=weights rerun=true"
        )
    verify(file)
    try:
        opened = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise WeightsMismatch(f"{file} is damaged ({error}); train that run again with rerun=true") from None
    with opened as theirs:
        yield _fitting(ours, theirs, file)


def _fitting(ours: Mapping[str, Tensor], theirs: Any, file: Path) -> Any:
    """The tensors of a file, if names and shapes are the model's. Raises WeightsMismatch."""
    shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
    wrong = [f"{name} is missing in the file" for name in sorted(set(ours) - set(shapes))]
    wrong += [f"{name} is not in the model" for name in sorted(set(shapes) - set(ours))]
    wrong += [
        f"{name} is {shapes[name]} in the file and {tuple(ours[name].shape)} in the model"
        for name in sorted(set(ours) & set(shapes))
        if shapes[name] != tuple(ours[name].shape)
    ]
    if wrong:
        more = [f"and {len(wrong) - _NAMED} more"] if len(wrong) > _NAMED else []
        raise WeightsMismatch(f"{file} does not fit the model: " + "; ".join(wrong[:_NAMED] + more))
    return theirs


class _Imported:
    """The tensors of a Hugging Face folder or an imported one under our names, asked for as in an open
    safetensors file. Raises CheckpointFormatError, also for an imported folder that has changed since."""

    def __init__(self, folder: Path):
        from ablate.model.hf.opened import open_foreign

        self._state = open_foreign(folder).state

    def keys(self) -> Iterator[str]:
        return iter(self._state)

    def get_slice(self, name: str) -> "_Shape":
        return _Shape(self._state[name].shape)

    def get_tensor(self, name: str) -> Tensor:
        return self._state[name]


class _Shape:
    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape

    def get_shape(self) -> tuple[int, ...]:
        return self._shape


@torch.no_grad()
def load_weights(decoder: Decoder, file: Path) -> None:
    """Copy the file's tensors into the decoder, which may be sharded. Raises WeightsMismatch,
    FileNotFoundError."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    ours = decoder.state_dict()
    with fitting(ours, file) as theirs:
        for name, tensor in ours.items():
            whole = theirs.get_tensor(name).to(tensor.dtype)
            if isinstance(tensor, DTensor):  # all ranks read the same file, so no message is sent
                whole = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.copy_(whole)
