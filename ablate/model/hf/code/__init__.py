"""Any model as a Hugging Face folder with its own code: one generated file, for
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.

The file is made of ablate's own definitions: `sources.py` reads modules, `reach.py` finds what the parts of
a model need, `pruned.py` leaves out what only training needs, `file.py` writes. `stand_ins.py` is what stands
in the place of registries and specifications, and `wrapper.py` the class of transformers.
"""

import importlib.util
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.hf import SHARD, cast
from ablate.model.hf.code.file import write_file
from ablate.model.hf.code.reach import WRAPPER, Reached
from ablate.model.hf.code.sources import Definition, Sources
from ablate.model.hf.family import ExportError
from ablate.model.hf.folder import new_folder, write_json, write_tensors
from ablate.parts.base import ForwardContext
from ablate.registry import Options, kernel, registries
from ablate.spec import LayerSpec

MODULE = "modeling_ablate"
KERNELS = ("sdpa", "reference")  # the first that can
SAMPLE_SHAPE = (2, 24)  # rows and tokens of the comparison with the decoder
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest logit
TOLERANCE_IN_HALF = 0.05


def export_code(
    decoder: Decoder,
    folder: Path | str,
    end: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
    beside: Collection[Callable[[Path], None]] = (),
) -> None:
    """Write the folder, whole or not at all. Arguments are as those of `ablate.model.hf.export_folder`.

    Before it takes its place, the file is run, and its logits are compared with the decoder's. Raises
    ExportError for a part that cannot be carried, FileExistsError for a folder that is not empty.
    """
    model = plain_model(decoder)
    text = source_of(model)
    state = {f"decoder.{name}": tensor for name, tensor in inference_state(decoder).items()}
    weights = {name: cast(name, tensor, dtype) if dtype else tensor for name, tensor in state.items()}
    kind = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    with new_folder(Path(folder)) as aside:
        (aside / f"{MODULE}.py").write_text(text, encoding="utf-8")
        config = config_of(model) | {"dtype": kind} | ends
        write_json(aside / "config.json", config)
        write_json(aside / "generation_config.json", {key: n for key, n in ends.items() if n is not None})
        write_tensors(aside, {name: tensor.contiguous() for name, tensor in weights.items()}, shard)
        for write in beside:
            write(aside)
        refuse_difference(aside / f"{MODULE}.py", decoder, config, state)


def inference_state(decoder: Decoder) -> dict[str, Tensor]:
    """The tensors of the decoder but for those of heads that only training has."""
    return {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("future.")}


def config_of(model: dict[str, Any]) -> dict[str, Any]:
    """config.json: the options, where the code is, and the sizes as transformers calls them."""
    return {
        "architectures": ["AblateForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODULE}.AblateConfig",
            "AutoModelForCausalLM": f"{MODULE}.AblateForCausalLM",
        },
        "model_type": "ablate",
        "model": model,
        "hidden_size": model["width"],
        "num_hidden_layers": model["depth"],
        "num_attention_heads": model["heads"],
        "max_position_embeddings": model["context"],
        "vocab_size": model["vocab"],
        "tie_word_embeddings": model["head"]["tied"],
    }


def plain_model(decoder: Decoder) -> dict[str, Any]:
    """The options of the model as plain data. A part says its kind and its name. Raises ExportError."""
    spec = decoder.spec
    layers, kinds = spec.layers(), spec.distinct_layers()
    return {
        **spec.shape()._asdict(),
        "dropout": spec.dropout,
        "norm": plain_data(spec.norm),
        "embedding": {name: plain_data(value) for name, value in spec.embedding},
        "stream": plain_data(spec.stream),
        "loop": spec.loop.model_dump(mode="json"),
        "head": spec.head.model_dump(mode="json"),
        "kernel": plain_data(kernel.parse(kernel_for(decoder))),
        "kinds": [
            {name: plain_data(getattr(kind, name)) for name in LayerSpec.model_fields} for kind in kinds
        ],
        "pattern": [kinds.index(layer) for layer in layers],
    }


def plain_data(value: Any) -> Any:
    """Raises ExportError for an option that is no plain data."""
    if isinstance(value, Options):
        return {
            "kind": value.kind,
            **{field: plain_data(getattr(value, field)) for field in type(value).model_fields},
        }
    if isinstance(value, list | tuple):
        return [plain_data(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExportError(f"an option is {value!r}, and config.json holds numbers, texts and lists of them alone")


def kernel_for(decoder: Decoder) -> str:
    """The kernel of torch that can serve all layers."""
    needs = [
        need
        for layer, p in zip(decoder.layers, decoder.position_of, strict=True)
        for need in layer.attention.needs(decoder.positions[p], training=False)
    ]
    return next(name for name in KERNELS if not any(kernel.build(name).refuses(need) for need in needs))


def source_of(model: dict[str, Any]) -> str:
    """The file for a model's options. Raises ExportError for a part that cannot be carried."""
    made = {(kind, name): registries[kind][name].make for kind, name in parts_of(model)}
    for (kind, name), make in made.items():
        if getattr(make, "__qualname__", "<") != getattr(make, "__name__", ""):
            raise ExportError(
                f"{kind} {name}: is made inside of a function; define it at the top of a module"
            )
    roots = [Definition(make.__module__, make.__name__) for make in made.values()]
    sources = Sources({root.module for root in roots})
    return write_file(Reached(sources, [Definition(WRAPPER, "AblateForCausalLM"), *roots]), about())


def parts_of(node: Any) -> Iterator[tuple[str, str]]:
    """The kind and the name of every part in the options of a model."""
    if isinstance(node, dict):
        if "kind" in node:
            yield node["kind"], node["name"]
        for value in node.values():
            yield from parts_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from parts_of(value)


def about() -> str:
    """The first lines of a file."""
    try:
        release = f" {version('ablate')}"
    except PackageNotFoundError:
        release = ""
    return (
        f"A decoder-only language model, with the code of its parts.\n\n"
        f"Generated by `ablate export --code` from the sources of ablate{release} (Apache License 2.0).\n"
        "config.json holds the options that the parts are made with.\n"
    )


@torch.no_grad()
def refuse_difference(file: Path, decoder: Decoder, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raises ExportError where the file does not give the decoder's logits, whole or with its cache."""
    if importlib.util.find_spec("transformers") is None:
        raise ExportError("the file is tried before it is handed out, which needs transformers: install it")
    spec = importlib.util.spec_from_file_location("ablate_exported", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules[spec.name] = module  # where dataclasses look themselves up
        spec.loader.exec_module(module)
        with torch.device("meta"):
            model = module.AblateForCausalLM(module.AblateConfig(**config))
        model.load_state_dict(state, assign=True)
        weight = decoder.embedding.weight
        rows, tokens = SAMPLE_SHAPE[0], min(SAMPLE_SHAPE[1], config["model"]["context"])
        given = torch.randint(len(weight), (rows, tokens), generator=torch.Generator().manual_seed(0))
        given = given.to(weight.device)
        training = decoder.training
        ours: Any = decoder.eval()(given, ForwardContext.of(given))
        decoder.train(training)
        whole = model.eval()(given, use_cache=False).logits
        first = model(given[:, :1])
        rest = model(given[:, 1:], cache=first[module.CACHE])
        pieces = torch.cat((first.logits, rest.logits), 1)
    except Exception as error:
        raise ExportError(f"the generated file fails: {type(error).__name__}: {error}") from error
    finally:
        sys.modules.pop(spec.name, None)
    allowed = TOLERANCE.get(weight.dtype, TOLERANCE_IN_HALF) * float(ours.abs().max())
    for how, theirs in (("whole", whole), ("with its cache", pieces)):
        off = float((theirs - ours).abs().max())
        if not off <= allowed:
            raise ExportError(f"the generated file gives other logits {how}: they differ by {off:.1e}")
