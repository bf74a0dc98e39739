"""The tensors of a folder, read and written by a family's table."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.hf.family import CheckpointFormatError, ExportError, Family, Placed, shown
from ablate.model.hf.folder import Header, headers
from ablate.model.measure import blueprint
from ablate.spec import ModelSpec

# Constants that some files keep beside the weights: masks and RoPE's frequencies.
CONSTANTS = re.compile(
    r"\.(attn|attention|self_attn)\.(bias|masked_bias)$|rotary_emb\.inv_freq$"
    r"|\.self_attn\.(diagonal_decay|key_decay|query_decay|slope_rate)$"  # of lightning attention
)
FLOATS = ("F64", "F32", "F16", "BF16")  # the dtypes that weights may have, as safetensors calls them


def read_weights(folder: Path, family: Family, spec: ModelSpec) -> dict[str, Tensor]:
    """Our state, from the *.safetensors of the folder. Raises CheckpointFormatError."""
    found = _named(headers(folder), family)
    _refuse_giants(spec, found)
    model = blueprint(spec)
    like = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if spec.head.tied:
        found = _without_head(found, family, folder)
    state: dict[str, Tensor] = {}
    given = {row.ours for row in _rows(family, model) if row.theirs in found}
    for row in _rows(family, model):
        if not row.ours or not all(name in like for name in row.ours):
            continue
        if row.theirs not in found and row.ours in given:
            continue  # stands under another of the family's names
        if row.theirs not in found:
            raise CheckpointFormatError(f"{folder}: {row.theirs} is missing")
        _take(row, found.pop(row.theirs), like, model, state)
    for name, value in _constants(family, spec.depth):
        if name in found and not torch.allclose(found[name].read().float(), torch.tensor(value), rtol=1e-2):
            raise CheckpointFormatError(
                f"{folder}: {name} is not {value:g}, which no option of ours can change"
            )
        found.pop(name, None)
    left = [name for name in found if not CONSTANTS.search(name)]
    if left:
        raise CheckpointFormatError(f"{folder}: the model has no place for {', '.join(sorted(left)[:8])}")
    state |= {name: torch.zeros(buffer.shape) for name, buffer in model.named_buffers() if name not in state}
    missing = sorted(set(like) - set(state))
    if missing:
        raise CheckpointFormatError(f"{family.name}: the table gives no {', '.join(missing[:8])}")
    return state


def write_weights(state: Mapping[str, Tensor], model: Decoder, family: Family) -> dict[str, Tensor]:
    """Their tensors, on the CPU, of the state of a model like this one.

    Raises ExportError for a tensor that the family has no name for.
    """
    left = {name: tensor.detach().cpu() for name, tensor in state.items()}
    written: dict[str, Tensor] = {}
    for row in _rows(family, model):
        if not any(name in left for name in row.ours):
            continue
        ours = [left.pop(name) for name in row.ours]
        written[row.theirs] = row.change.write(ours, model.shape).contiguous()
    written |= {name: torch.tensor(value) for name, value in _constants(family, model.spec.depth)}
    buffers = {name for name, _ in model.named_buffers()}
    unnamed = [name for name, tensor in left.items() if name not in buffers or tensor.any()]
    if unnamed:
        raise ExportError(f"{family.name} has no tensor for {', '.join(sorted(unnamed)[:8])}")
    return written


def _constants(family: Family, depth: int) -> list[tuple[str, float]]:
    """Their tensors that hold one number, in each layer."""
    return [(name.format(n=n), value) for name, value in family.constants.items() for n in range(depth)]


NUMBERED = {"e": r"\.experts\.(\d+)\.", "s": r"\.shared\.(\d+)\.", "g": r"\.norms\.(\d+)\."}
NUMBERED["l"] = r"after\.(\d+)\.lookup\."


def _rows(family: Family, model: Decoder) -> list[Placed]:
    names = "\n".join(model.state_dict())
    counts = {letter: len(set(re.findall(pattern, names))) for letter, pattern in NUMBERED.items()}
    return list(family.expanded([layer.attention for layer in model.spec.layers()], counts))


def _refuse_giants(spec: ModelSpec, found: Mapping[str, Header]) -> None:
    """A config whose sizes the files cannot fill is found out before a model is built of it."""
    numbers = max((header.numel for header in found.values()), default=0)
    experts = getattr(spec.ffn, "experts", 1)
    sizes = {"width": spec.width, "heads": spec.heads, "vocab": spec.vocab or 0}
    sizes |= {"head_width": spec.head_width or 0, "ffn.width": getattr(spec.ffn, "width", 0) or 0}
    wrong = [f"{name} {size}" for name, size in sizes.items() if size > numbers]
    wrong += [f"{n} {what}" for n, what in ((spec.depth, "layers"), (experts, "experts")) if n > len(found)]
    if wrong:
        raise CheckpointFormatError(
            f"the config says {', '.join(wrong)}; the files hold {len(found)} tensors of at most "
            f"{numbers} numbers"
        )


def _take(
    row: Placed, header: Header, like: dict[str, torch.Size], model: Decoder, state: dict[str, Tensor]
) -> None:
    if header.dtype not in FLOATS:
        raise CheckpointFormatError(
            f"{row.theirs} is of type {shown(header.dtype)}; weights are {', '.join(FLOATS)}, not quantised"
        )
    shapes = [like[name] for name in row.ours]
    theirs = header.read()
    if not torch.isfinite(theirs).all():
        bad = int((~torch.isfinite(theirs)).sum())
        raise CheckpointFormatError(f"{row.theirs} holds {bad} numbers that are not finite (NaN or infinity)")
    try:
        parts = row.change.read(theirs, shapes, model.shape)
    except RuntimeError as error:
        raise CheckpointFormatError(f"{row.theirs} of shape {tuple(theirs.shape)}: {error}") from None
    if len(parts) != len(row.ours):
        raise CheckpointFormatError(
            f"{row.theirs} holds {len(parts)} matrices; by the config it should hold {len(row.ours)}"
        )
    for name, shape, part in zip(row.ours, shapes, parts, strict=True):
        if part.shape != shape:
            raise CheckpointFormatError(
                f"{row.theirs} gives {name} the shape {tuple(part.shape)}; the config says {tuple(shape)}"
            )
        state[name] = part.clone(memory_format=torch.contiguous_format)


def _without_head(found: dict[str, Header], family: Family, folder: Path) -> dict[str, Header]:
    """A tied head that is stored must be the table; where the table is not, it stands for it."""
    table, head = (
        next(row.theirs for row in family.rows if row.ours == (name,))
        for name in ("embedding.weight", "head.weight")
    )
    if head not in found:
        return found
    found = dict(found)
    tied = found.pop(head)
    if found.setdefault(table, tied) is not tied and not tied.read().equal(found[table].read()):
        raise CheckpointFormatError(
            f"{folder}: {head} is not the embedding, but tie_word_embeddings says that it is"
        )
    return found


def _named(found: dict[str, Header], family: Family) -> dict[str, Header]:
    """With the prefix of the family's names, where a file leaves it out."""
    known = {row.theirs.split("{")[0] for row in family.rows}
    if any(name.startswith(family.prefix) for name in found):
        return found
    bare = {name for name in known if not name.startswith(family.prefix)}
    return {name if name in bare else family.prefix + name: header for name, header in found.items()}
