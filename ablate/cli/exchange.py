"""Models in and out of the project: what `python -m ablate import`, `export` and `evaluate --like` do."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ablate import registry
from ablate.cli.card import card, verdicts_on
from ablate.data.prepare import Prepared, prepare
from ablate.data.tokenizer import Portable, TokenizerError
from ablate.errors import AblateError
from ablate.measure import Measured
from ablate.measure.lm_eval import write_tokenizer
from ablate.measure.trained import Trained, open_run
from ablate.model.hf import SHARD, ExportError, choose, export_folder
from ablate.model.hf.code import export_code
from ablate.model.hf.opened import TOKENIZER, TOKENIZER_FILES, Foreign, copy_tokenizer, import_to, is_foreign
from ablate.record import RunRecord
from ablate.registry import measure
from ablate.spec import DataSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class ModelNotMeasured(AblateError, ValueError):
    """A model that cannot be measured on a run's text, with the reason."""


def bring_in(folder: Path, to: Path, ignore: Collection[str]) -> Foreign:
    """Import a Hugging Face folder. Raises CheckpointFormatError, FileExistsError."""
    return import_to(folder, to, ignore)


def send_out(
    folder: Path,
    to: Path,
    family: str | None = None,
    dtype: str | None = None,
    shard: int = SHARD,
    experiments: Path = Path("experiments"),
    code: bool = False,
) -> list[str]:
    """Export a run, or a folder that others trained, with its tokenizer and a card: as a family of
    transformers, or with its own `code`.

    Returns the lines to print: the family, and what the folder lacks. Raises ExportError, RunNotLoadable,
    FileExistsError.
    """
    if code and family is not None:
        raise ExportError("--code writes the model's own code, and --family one that transformers has")
    run = open_run(folder)
    chosen = None if code else choose(run.decoder.spec, family)
    name = chosen.family.name if chosen else None
    kept = tokenizer_folder(folder) if is_foreign(folder) else None
    said, words = _tokenizer_of(run, kept)

    def beside(aside: Path) -> None:
        if kept is not None:
            copy_tokenizer(kept, aside)
        elif words is not None:
            write_tokenizer(aside, words, run.decoder.spec.context)
        text = card(_counted(run), name, said, verdicts_on(run.record.id, experiments))
        (aside / "README.md").write_text(text, encoding="utf-8")

    kind = None if dtype is None else _DTYPES[dtype]
    how: dict[str, Any] = {"dtype": kind, "shard": shard, "beside": [beside]}
    if chosen is None:
        export_code(run.decoder, to, run.tokenizer.end, **how)
    else:
        export_folder(run.decoder, to, name, run.tokenizer.end, **how)
    lines = [f"{to}: {name or 'with its own code, to be read with trust_remote_code=True'}"]
    if chosen is not None and chosen.spec != run.decoder.spec:
        lines.append("zeros stand for the biases that this family always has (ones for the weights of norms)")
    if kept is None and words is None:
        lines.append(f"no tokenizer: {said}")
    return lines


def measure_like(folder: Path, names: Sequence[str], like: Path, cache: Path) -> Measured:
    """Measures of a model that others trained, on the text of a run, in the model's own tokens.

    Losses are then of other tokens than the run's: bits per byte can be compared. Raises Unmeasured,
    RunNotLoadable, TokenizerError, DataError.
    """
    unknown = [name for name in names if name not in measure]
    if unknown:
        raise ModelNotMeasured(f"no measure is called {', '.join(unknown)}; there are {', '.join(measure)}")
    if not is_foreign(folder):
        raise ModelNotMeasured(
            f"{folder}: is no Hugging Face folder or imported one; a run has a text of its own"
        )
    trained, prepared = on_text_of(like, open_run(folder), folder, cache)
    found = [_measured(name, trained, prepared) for name in names]
    return Measured(
        {key: value for one in found for key, value in one.metrics.items()},
        {key: value for one in found for key, value in one.vectors.items()},
    )


def _measured(name: str, trained: Trained, prepared: Prepared) -> Measured:
    try:
        found: Measured = measure.build(name)(trained, prepared)
    except ValidationError:  # it asks the specification of a run
        raise ModelNotMeasured(
            f"measure {name}: is of how a run was trained, which others do not say"
        ) from None
    return found


def on_text_of(like: Path, trained: Trained, folder: Path, cache: Path) -> tuple[Trained, Prepared]:
    """The model as if it were a run on that run's text, and the text in its tokens."""
    data = DataSpec.model_validate(RunRecord.load(like).spec["data"])
    refuse_reading(data, str(like))
    data = in_tokens_of(data, trained, folder)
    spec = {**trained.record.spec, "data": data.model_dump(mode="json"), "precision": "fp32"}
    return trained._replace(record=trained.record.model_copy(update={"spec": spec})), prepare(data, cache)


def refuse_reading(data: DataSpec, place: str) -> None:
    """Raise ModelNotMeasured where a model with another tokenizer cannot read this text."""
    if data.tokenizer.name == "symbols" or data.prefix:
        raise ModelNotMeasured(
            f"{place}: its data are examples of a task or have a prefix, and no text to read on"
        )
    mixed = getattr(data.source, "sources", None) or {"": data.source}
    for options in (*mixed.values(), *(data.sets or {}).values()):
        if registry.source.build(options).token_documents("train") is not None:
            raise ModelNotMeasured(
                f"{place}: its data are tokens of another tokenizer; a model reads text alone"
            )


def in_tokens_of(data: DataSpec, trained: Trained, folder: Path) -> DataSpec:
    """The same text in the tokens of a model. Raises ModelNotMeasured."""
    if trained.tokenizer.end is None:
        raise ModelNotMeasured(f"{folder}: has no tokenizer.json with a token that ends a document")
    own = {"name": "saved", "path": str(tokenizer_folder(folder)), "end": trained.tokenizer.end_token}
    return DataSpec.model_validate({**data.model_dump(mode="json"), "tokenizer": own})


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a foreign folder lies."""
    return folder / TOKENIZER if (folder / "model.json").exists() else folder


def parse_size(text: str) -> int:
    """`5GB`, `200MB`, `20KB` in bytes, or a number of bytes. Raises ValueError."""
    unit = text[-2:].upper()
    number = text[:-2] if unit in UNITS else text
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise ValueError(f"{text!r} is no size; say 5GB, 200MB or 20KB")
    return int(number) * UNITS.get(unit, 1)


def _tokenizer_of(run: Trained, kept: Path | None) -> tuple[str, Portable | None]:
    """What the card says of the tokenizer, and how it is written; null where it is copied or cannot be."""
    if kept is not None:
        there = [name for name in TOKENIZER_FILES if (kept / name).exists()]
        return ("as it was imported" if there else "none"), None
    try:
        words = run.tokenizer.portable()
    except TokenizerError as error:
        return str(error), None
    return f"`{run.record.spec['data']['tokenizer']['name']}`, {run.tokenizer.vocab} tokens", words


def _counted(run: Trained) -> RunRecord:
    """The record, with the number of parameters where it does not say."""
    if "parameters" in run.record.counts:
        return run.record
    counts: dict[str, Any] = {"parameters": float(sum(p.numel() for p in run.decoder.parameters()))}
    return run.record.model_copy(update={"counts": {**run.record.counts, **counts}})
