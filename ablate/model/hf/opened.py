"""A model that no run of ours left: a Hugging Face folder, or one that `python -m ablate import` wrote.

TO/model.json                  the model, as options
TO/weights/model.safetensors   its state, under our names
TO/tokenizer/                  the files of its tokenizer, as they were
TO/imported.json               family, the token that ends a document, and the hash of model and weights
"""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from ablate import registry
from ablate.explain import explain
from ablate.model.hf import import_folder, import_spec
from ablate.model.hf.canonical import canonical
from ablate.model.hf.family import CheckpointFormatError
from ablate.model.hf.folder import new_folder, read_json, write_json
from ablate.spec import ModelSpec, digest

MODEL, WEIGHTS, TOKENIZER, IMPORTED = "model.json", "weights/model.safetensors", "tokenizer", "imported.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json"),
)
MOST_TOKENIZER = 200_000_000  # bytes: far more takes the tokenizers library more memory than there is


class Foreign(NamedTuple):
    """A model, its state on the CPU, and its tokenizer where there is one."""

    id: str  # of model and weights
    family: str
    spec: ModelSpec
    state: dict[str, Tensor]
    tokenizer: Any  # ablate.data.tokenizer.Tokenizer, or None
    tokenizer_files: Path  # the folder that holds them


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a model, and no run."""
    if (folder / "record.json").exists():
        return False
    return (folder / MODEL).exists() or (folder / "config.json").exists()


def model_of(folder: Path, ignore: Collection[str] = ()) -> ModelSpec:
    """The model alone. Raises CheckpointFormatError, FileNotFoundError."""
    return _imported_spec(folder) if (folder / MODEL).exists() else import_spec(folder, ignore)[1]


def open_foreign(folder: Path, ignore: Collection[str] = ()) -> Foreign:
    """Raises FileNotFoundError, and CheckpointFormatError, also for an imported folder that has changed
    since."""
    if not (folder / MODEL).exists():
        spec, state = import_folder(folder, ignore)
        config = read_json(folder / "config.json")
        tokenizer = tokenizer_of(folder, config.get("eos_token_id"))
        return Foreign(identity(spec, state), config["model_type"], spec, state, tokenizer, folder)
    spec, about = _imported_spec(folder), read_json(folder / IMPORTED)
    state = _state(folder / WEIGHTS)
    if identity(spec, state) != about.get("id"):
        raise CheckpointFormatError(
            f"{folder}: model or weights are no longer those that were imported; import them again"
        )
    words = folder / TOKENIZER
    return Foreign(
        about["id"], str(about.get("family")), spec, state, tokenizer_of(words, about.get("end")), words
    )


def import_to(folder: Path, to: Path, ignore: Collection[str] = ()) -> Foreign:
    """Write what a Hugging Face folder holds, tokenizer included, as a folder of ours: whole or not at all.

    Raises as `import_folder`; FileExistsError for a folder that is not empty.
    """
    from safetensors.torch import save_file

    with new_folder(to) as aside:
        found = open_foreign(folder, ignore)
        (aside / WEIGHTS).parent.mkdir()
        save_file(found.state, aside / WEIGHTS)
        (aside / MODEL).write_text(found.spec.model_dump_json(indent=1))
        copy_tokenizer(folder, aside / TOKENIZER)
        end = None if found.tokenizer is None else found.tokenizer.end
        write_json(aside / IMPORTED, {"id": found.id, "family": found.family, "end": end})
    return found._replace(tokenizer_files=to / TOKENIZER)


def copy_tokenizer(folder: Path, to: Path) -> None:
    """The files of a tokenizer, as they are. Raises CheckpointFormatError for one that is no regular file."""
    to.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            shutil.copyfile(_bounded(folder / name), to / name)


def identity(spec: ModelSpec, state: Mapping[str, Tensor]) -> str:
    """Hash of the model as mathematics and of every number of its state."""
    whole = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest({"model": canonical(spec), "weights": whole.hexdigest()})


def tokenizer_of(folder: Path, ends: Any) -> Any:
    """The tokenizer of a folder; None where it has no tokenizer.json, or no token that ends a document.

    `ends` is the eos_token_id of the config: a number, several, or none. Raises CheckpointFormatError.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        return None
    end = _end(_bounded(file), ends)
    if end is None:
        return None
    tokenizer = registry.tokenizer.build({"name": "saved", "path": str(file), "end": end})
    try:
        tokenizer.learn(iter(()))
    except ValueError as error:
        raise CheckpointFormatError(str(error)) from None
    return tokenizer


def _end(file: Path, ends: Any) -> str | None:
    """The token that ends a document: what tokenizer_config.json names, else that of the config's number."""
    beside = file.with_name("tokenizer_config.json")
    named = read_json(beside).get("eos_token") if beside.exists() else None
    named = named.get("content") if isinstance(named, dict) else named
    if isinstance(named, str) and named:
        return named
    number = ends[0] if isinstance(ends, list) and ends else ends
    whole = read_json(file, MOST_TOKENIZER)
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    tokens = {
        entry.get("id"): entry.get("content")
        for entry in whole.get("added_tokens") or []
        if isinstance(entry, dict)
    }
    if isinstance(vocab, dict):
        tokens |= {n: token for token, n in vocab.items()}
    found = tokens.get(number)
    return found if isinstance(found, str) else None


def _bounded(file: Path) -> Path:
    if not file.is_file():
        raise CheckpointFormatError(f"{file} is no regular file")
    if file.stat().st_size > MOST_TOKENIZER:
        raise CheckpointFormatError(f"{file} has more than {MOST_TOKENIZER:,} bytes")
    return file


def _imported_spec(folder: Path) -> ModelSpec:
    node = read_json(folder / MODEL)
    try:
        return ModelSpec.model_validate(node)
    except ValidationError as error:
        raise CheckpointFormatError(f"{folder / MODEL}: {'; '.join(explain(error))}") from None


def _state(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise CheckpointFormatError(f"{file} is missing; import the folder again")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointFormatError(f"{file} is damaged: {error}; import the folder again") from None
