"""A decoder's weights as one safetensors file, whole and unsharded, under the decoder's own names."""

from pathlib import Path

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.record import atomic

FILE = Path("weights") / "model.safetensors"


class Unfit(ValueError):
    """Weights that do not fit the model, with the names of those that do not."""


def collect(decoder: Decoder) -> dict[str, Tensor]:
    """Whole tensors on the CPU. All ranks must call it; where the model is sharded, only rank 0 gets them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = get_model_state_dict(decoder, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor for name, tensor in whole.items() if isinstance(tensor, Tensor)}


def save(state: dict[str, Tensor], file: Path) -> None:
    from safetensors.torch import save as to_bytes

    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as f:
        f.write(to_bytes({name: tensor.contiguous() for name, tensor in state.items()}))


@torch.no_grad()
def load(decoder: Decoder, file: Path) -> None:
    """Copy the file's tensors into the decoder, which may be sharded. Raises Unfit, FileNotFoundError."""
    from safetensors import safe_open
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not file.is_file():
        raise FileNotFoundError(
            f"start: there are no weights at {file}; was the run finished with keep=none?"
        )
    ours = decoder.state_dict()
    with safe_open(file, framework="pt") as theirs:
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
        wrong = [f"{name} is missing in the file" for name in sorted(set(ours) - set(shapes))]
        wrong += [f"{name} is not in the model" for name in sorted(set(shapes) - set(ours))]
        wrong += [
            f"{name} is {shapes[name]} in the file and {tuple(ours[name].shape)} in the model"
            for name in sorted(set(ours) & set(shapes))
            if shapes[name] != tuple(ours[name].shape)
        ]
        if wrong:
            raise Unfit(f"start: {file} does not fit the model: " + "; ".join(wrong))
        for name, tensor in ours.items():
            whole = theirs.get_tensor(name).to(tensor.dtype)
            if isinstance(tensor, DTensor):  # all ranks read the same file, so no message is sent
                whole = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.copy_(whole)
