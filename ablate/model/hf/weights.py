"""The tensors of a folder, read and written by a family's table."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.hf.family import Family, Inexpressible, Row, Unreadable
from ablate.model.measure import blueprint
from ablate.record import atomic
from ablate.spec import ModelSpec

# Constants that some files keep beside the weights: masks and RoPE's frequencies.
CONSTANTS = re.compile(r"\.(attn|attention|self_attn)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin.index.json")


def read_weights(folder: Path, family: Family, spec: ModelSpec) -> dict[str, Tensor]:
    """Our state, from every *.safetensors of the folder. Raises Unreadable."""
    model = blueprint(spec)
    like = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = _named(_tensors(folder), family)
    state: dict[str, Tensor] = {}
    for row in _rows(family, model):
        if not all(name in like for name in row.ours):
            continue
        if row.theirs not in found:
            raise Unreadable(f"{folder}: {row.theirs} is missing")
        _take(row, found.pop(row.theirs), like, model, state)
    if spec.head.tied:
        _same_head(found, family, state["embedding.weight"], folder)
    left = [name for name in found if not CONSTANTS.search(name)]
    if left:
        raise Unreadable(f"{folder}: the model has no place for {', '.join(sorted(left)[:8])}")
    state |= {name: torch.zeros(buffer.shape) for name, buffer in model.named_buffers() if name not in state}
    missing = sorted(set(like) - set(state))
    if missing:
        raise Unreadable(f"{family.name}: the table gives no {', '.join(missing[:8])}")
    return state


def write_weights(decoder: Decoder, family: Family) -> dict[str, Tensor]:
    """Their tensors, on the CPU. Raises Inexpressible for a tensor that the family has no name for."""
    state = {name: tensor.detach().cpu() for name, tensor in decoder.state_dict().items()}
    written: dict[str, Tensor] = {}
    for row in _rows(family, decoder):
        if not any(name in state for name in row.ours):
            continue
        ours = [state.pop(name) for name in row.ours]
        written[row.theirs] = row.change.write(ours, decoder.shape).contiguous()
    buffers = {name for name, _ in decoder.named_buffers()}
    left = [name for name, tensor in state.items() if name not in buffers or tensor.any()]
    if left:
        raise Inexpressible(f"{family.name} has no tensor for {', '.join(sorted(left)[:8])}")
    return written


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Written aside and renamed. Raises FileExistsError for a folder that is not empty."""
    from safetensors.torch import save_file

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with atomic(aside / "config.json") as f:
            f.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
        aside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_json(file: Path) -> dict[str, Any]:
    """Raises Unreadable."""
    try:
        node = json.loads(file.read_text())
    except ValueError as error:
        raise Unreadable(f"{file} is not JSON: {error}") from None
    if not isinstance(node, dict):
        raise Unreadable(f"{file} holds no JSON object")
    return node


def _rows(family: Family, model: Decoder) -> list[Row]:
    experts = {int(n) for name in model.state_dict() for n in re.findall(r"\.experts\.(\d+)\.", name)}
    return list(family.expanded(model.spec.depth, len(experts)))


def _take(
    row: Row, theirs: Tensor, like: dict[str, torch.Size], model: Decoder, state: dict[str, Tensor]
) -> None:
    shapes = [like[name] for name in row.ours]
    try:
        parts = row.change.read(theirs, shapes, model.shape)
    except RuntimeError as error:
        raise Unreadable(f"{row.theirs} of shape {tuple(theirs.shape)}: {error}") from None
    for name, shape, part in zip(row.ours, shapes, parts, strict=True):
        if part.shape != shape:
            raise Unreadable(
                f"{row.theirs} gives {name} the shape {tuple(part.shape)}; the config says {tuple(shape)}"
            )
        state[name] = part.clone(memory_format=torch.contiguous_format)


def _same_head(found: dict[str, Tensor], family: Family, table: Tensor, folder: Path) -> None:
    """A tied head that is stored too must be the table."""
    for row in family.rows:
        if row.ours == ("head.weight",) and row.theirs in found and not found.pop(row.theirs).equal(table):
            raise Unreadable(
                f"{folder}: {row.theirs} is not the embedding, but tie_word_embeddings says that it is"
            )


def _named(tensors: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """With the prefix of the family's names, where a file leaves it out."""
    known = {row.theirs.split("{")[0] for row in family.rows}
    if any(name.startswith(family.prefix) for name in tensors):
        return tensors
    bare = {name for name in known if not name.startswith(family.prefix)}
    return {name if name in bare else family.prefix + name: tensor for name, tensor in tensors.items()}


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    if index.exists():
        where = read_json(index).get("weight_map")
        if not isinstance(where, dict):
            raise Unreadable(f"{index} has no weight_map")
        files = sorted({folder / name for name in where.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
        where = {}
    if not files:
        pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
        if pickled:
            raise Unreadable(
                f"{folder}: {pickled[0]} is pickled, and reading a pickle can run any code; "
                "save the model as safetensors (transformers: save_pretrained)"
            )
        raise Unreadable(f"{folder} holds no *.safetensors")
    lost = [path.name for path in files if path.parent != folder or not path.exists()]
    if lost:
        raise Unreadable(f"{folder}: {', '.join(lost)}, named by {index.name}, is not there")
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise Unreadable(f"{path} is damaged: {error}; fetch it again") from None
    lacking = sorted(set(where) - set(tensors))
    if lacking:
        raise Unreadable(f"{folder}: {lacking[0]}, named by {index.name}, is in none of the files")
    return tensors
