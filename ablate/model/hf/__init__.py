"""Weights in and out: folders as Hugging Face keeps them (config.json and safetensors).

    spec, state = import_folder(folder)
    decoder = Decoder(spec); decoder.load_state_dict(state)
    export_folder(decoder, folder)

A family is a table (`family.py` says of what); `config.py` reads and writes config.json by it, and
`weights.py` the tensors.
"""

from pathlib import Path

from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.hf.config import blockers, read_config, write_config
from ablate.model.hf.falcon import FALCON
from ablate.model.hf.family import Family, Inexpressible, Unreadable
from ablate.model.hf.gpt2 import GPT2
from ablate.model.hf.gpt_neox import GPT_NEOX
from ablate.model.hf.llama import GEMMA, GEMMA2, LLAMA, MISTRAL, MIXTRAL, OLMO, OLMO2, QWEN2, QWEN3
from ablate.model.hf.mpt import MPT
from ablate.model.hf.phi import PHI
from ablate.model.hf.weights import read_json, read_weights, write_folder, write_weights
from ablate.spec import ModelSpec

__all__ = ["FAMILIES", "Inexpressible", "Unreadable", "export_folder", "import_folder"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, OLMO, OLMO2, MIXTRAL),
        *(GPT2, GPT_NEOX, FALCON, MPT, PHI),
    )
}


def import_folder(folder: Path | str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The model of a folder and its state, in the dtype of the files, on the CPU.

    Raises Unreadable for a family or an option that is not among ours, for a tensor that is missing,
    unknown or of another shape, for a damaged file and for pickled weights; FileNotFoundError without a
    config.json.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise Unreadable(f"{folder}: model_type {kind!r} has no table; there are {', '.join(FAMILIES)}")
    spec = read_config(config, FAMILIES[kind])
    return spec, read_weights(folder, FAMILIES[kind], spec)


def export_folder(
    decoder: Decoder, folder: Path | str, family: str | None = None, end: int | None = None
) -> str:
    """Write config.json and model.safetensors, whole or not at all; returns the family's name.

    The family is the first that expresses the model, or the one named; `end` is the number of the token
    that ends a document. Raises Inexpressible, naming the options in the way, FileExistsError for a
    folder that is not empty.
    """
    chosen = FAMILIES[_family(decoder.spec, family)]
    config = write_config(decoder.spec, chosen)
    dtype = str(decoder.embedding.weight.dtype).removeprefix("torch.")
    config |= {"dtype": dtype, "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    write_folder(Path(folder), config, write_weights(decoder, chosen))
    return chosen.name


def _family(spec: ModelSpec, name: str | None) -> str:
    if name is not None and name not in FAMILIES:
        raise Inexpressible(f"no family is called {name!r}; there are {', '.join(FAMILIES)}")
    found = {key: blockers(spec, FAMILIES[key]) for key in ([name] if name else FAMILIES)}
    for key, wrong in found.items():
        if not wrong:
            return key
    nearest = sorted(found, key=lambda key: len(found[key]))[:3]
    lines = [f"{key}: {'; '.join(found[key])}" for key in nearest]
    raise Inexpressible("no family expresses this model. In the way of the nearest:\n" + "\n".join(lines))
