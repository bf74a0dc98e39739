"""Weights in and out: folders as Hugging Face keeps them (config.json and safetensors).

    spec, state = import_folder(folder)
    decoder = Decoder(spec); decoder.load_state_dict(state)
    export_folder(decoder, folder)

A family is a table (`family.py` says of what); `config.py` reads and writes config.json by it, `weights.py`
the tensors, `folder.py` the files.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.hf.axk2 import AXK2_FAMILIES as AXK2
from ablate.model.hf.block_sparse import MINIMAX_M3
from ablate.model.hf.config import WORDLESS, blockers, read_config, write_config
from ablate.model.hf.convolution import CONVOLUTION_FAMILIES as CONVOLUTION
from ablate.model.hf.delta_hybrids import DELTA_HYBRID_FAMILIES as DELTA_HYBRIDS
from ablate.model.hf.differential import DIFFLLAMA
from ablate.model.hf.dots3 import DOTS3_FAMILIES as DOTS3
from ablate.model.hf.fairseq import FAIRSEQ_FAMILIES as FAIRSEQ
from ablate.model.hf.falcon import FALCON
from ablate.model.hf.falcon_h1 import FALCON_H1
from ablate.model.hf.family import CheckpointFormatError, ExportError, Family, shown
from ablate.model.hf.fill import fill, filled
from ablate.model.hf.folder import new_folder, read_json, write_json, write_tensors
from ablate.model.hf.gated import GATED_FAMILIES as GATED
from ablate.model.hf.gemma4 import GEMMA4_FAMILIES as GEMMA4
from ablate.model.hf.gpt2 import GPT2
from ablate.model.hf.gpt_kin import GPT_KIN_FAMILIES as GPT_KIN
from ablate.model.hf.gpt_neox import GPT_NEOX
from ablate.model.hf.griffin import GRIFFIN_FAMILIES as GRIFFIN
from ablate.model.hf.hy_v4 import HY_V4_FAMILIES as HY_V4
from ablate.model.hf.hybrid import HYBRID_FAMILIES as HYBRID
from ablate.model.hf.inkling import INKLING_FAMILIES as INKLING
from ablate.model.hf.jetmoe import JETMOE_FAMILIES as JETMOE
from ablate.model.hf.latent import LATENT_FAMILIES as LATENT
from ablate.model.hf.llama import GEMMA, GEMMA2, LLAMA, MISTRAL, MIXTRAL, OLMO, OLMO2, QWEN2, QWEN3
from ablate.model.hf.llama_kin import LLAMA_KIN_FAMILIES as LLAMA_KIN
from ablate.model.hf.llama_layers import LLAMA_LAYERS_FAMILIES as LLAMA_LAYERS
from ablate.model.hf.missing import completed
from ablate.model.hf.mixtures import MIXTURES_FAMILIES as MIXTURES
from ablate.model.hf.mpt import MPT
from ablate.model.hf.multiplied import MULTIPLIED_FAMILIES as MULTIPLIED
from ablate.model.hf.own_dense import OWN_DENSE_FAMILIES as OWN_DENSE
from ablate.model.hf.own_mixtures import OWN_MIXTURES_FAMILIES as OWN_MIXTURES
from ablate.model.hf.phi import PHI
from ablate.model.hf.recurrent import MAMBA_KIN_FAMILIES as MAMBA_KIN
from ablate.model.hf.scored_mixtures import SCORED_MIXTURES_FAMILIES as SCORED_MIXTURES
from ablate.model.hf.sparse_latent import SPARSE_LATENT_FAMILIES as SPARSE_LATENT
from ablate.model.hf.state_space import STATE_SPACE_FAMILIES as STATE_SPACE
from ablate.model.hf.weights import read_weights, write_weights
from ablate.model.hf.xlstm import XLSTM
from ablate.model.measure import blueprint
from ablate.spec import ModelSpec

__all__ = ["FAMILIES", "CheckpointFormatError", "ExportError", "export_folder", "import_folder"]

FAMILIES: dict[str, Family] = {
    family.name: completed(family)
    for family in (
        *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, OLMO, OLMO2, MIXTRAL),
        *(GPT2, GPT_NEOX, FALCON, MPT, PHI),
        *(*LLAMA_KIN, *LLAMA_LAYERS),
        *(*MIXTURES, *SCORED_MIXTURES),
        *(*GPT_KIN, *FAIRSEQ),
        *(*LATENT, *SPARSE_LATENT),
        *(DIFFLLAMA, MINIMAX_M3),
        *GATED,
        *(*HYBRID, *CONVOLUTION),
        *MULTIPLIED,
        *(*DELTA_HYBRIDS, *STATE_SPACE, *MAMBA_KIN, FALCON_H1, *GRIFFIN, XLSTM),
        *(*OWN_DENSE, *OWN_MIXTURES),
        *(*GEMMA4, *DOTS3, *AXK2, *JETMOE, *HY_V4, *INKLING),
    )
}
SHARD = 50_000_000_000  # bytes of a file at most, as in transformers 5
HALF_LARGEST = torch.finfo(torch.float16).max


class Chosen(NamedTuple):
    """A family, and the model as it expresses it: with zeros for biases that it cannot leave out."""

    family: Family
    spec: ModelSpec


NEAREST_FAMILIES = 5  # families of which an export says what is in the way


def import_folder(folder: Path | str, ignore: Collection[str] = ()) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The model of a folder and its state, in the dtype of the files, on the CPU.

    `ignore` names keys of config.json that change nothing. Raises CheckpointFormatError for a family or an
    option that
    is not among ours, for a tensor that is missing, unknown, quantised, not finite or of another shape, for a
    damaged file and for pickled weights; FileNotFoundError without a config.json.
    """
    folder = Path(folder)
    family, spec = import_spec(folder, ignore)
    state = read_weights(folder, family, spec)
    family.fold(read_json(folder / "config.json"), state)
    return spec, state


def import_spec(folder: Path, ignore: Collection[str] = ()) -> tuple[Family, ModelSpec]:
    """What config.json says. Raises CheckpointFormatError, FileNotFoundError."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointFormatError(
            f"{folder}: model_type {shown(kind)} has no table; there are {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind], read_config(config, FAMILIES[kind], ignore)


def export_folder(
    decoder: Decoder,
    folder: Path | str,
    family: str | None = None,
    end: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
    beside: Collection[Callable[[Path], None]] = (),
) -> str:
    """Write the configs and the weights, whole or not at all; returns the family's name.

    The family is the first that expresses the model, or the one named; `end` is the number of the token
    that ends a document, `dtype` that of the file, `shard` the bytes of a file at most. `beside` are
    functions that write more files into the folder. Raises ExportError, naming the options in the way,
    FileExistsError for a folder that is not empty.
    """
    chosen = choose(decoder.spec, family)
    state = decoder.state_dict() if chosen.spec == decoder.spec else fill(decoder.state_dict(), chosen.spec)
    weights = write_weights(state, blueprint(chosen.spec), chosen.family)
    if dtype is not None:
        weights = {name: cast(name, tensor, dtype) for name, tensor in weights.items()}
    kind = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    with new_folder(Path(folder)) as aside:
        config = write_config(chosen.spec, chosen.family) | {"dtype": kind}
        config |= {key: config.get(key) if n is None else n for key, n in ends.items()}
        write_json(aside / "config.json", config)
        write_json(aside / "generation_config.json", {key: n for key, n in ends.items() if n is not None})
        write_tensors(aside, weights, shard)
        for write in beside:
            write(aside)
    return chosen.family.name


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises ExportError where the dtype has no number so large."""
    if dtype == torch.float16 and tensor.abs().max() > HALF_LARGEST:
        raise ExportError(
            f"{name} holds numbers beyond {HALF_LARGEST:g}, the largest of float16; use bfloat16"
        )
    return tensor.to(dtype)


def choose(spec: ModelSpec, name: str | None = None) -> Chosen:
    """The first family that expresses the model as it is, or else with zeros; only the named one, if any is.

    Raises ExportError with all that is in the way of each family, the nearest first.
    """
    if name is not None and name not in FAMILIES:
        raise ExportError(f"no family is called {shown(name)}; there are {', '.join(FAMILIES)}")
    families = [FAMILIES[key] for key in ([name] if name else FAMILIES)]
    wrong: dict[str, list[str]] = {}
    for widen in (lambda spec, family: spec, filled):
        for family in families:
            wider = widen(spec, family)
            wrong[family.name] = blockers(wider, family)
            if not wrong[family.name]:
                return Chosen(family, wider)
    nearest = sorted(wrong, key=lambda key: (WORDLESS in wrong[key], len(wrong[key])))
    lines = [f"{key}: {'; '.join(wrong[key])}" for key in nearest[:NEAREST_FAMILIES]]
    raise ExportError(
        "no family expresses this model (`ablate export --code` writes its own code). In the way, the "
        "nearest family first:\n" + "\n".join(lines)
    )
