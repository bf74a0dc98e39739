"""To begin where another run ended, or from a model that others trained."""

from pathlib import Path
from typing import Any

from ablate.data.prepare import Prepared
from ablate.model.hf.canonical import canonical, differences
from ablate.model.hf.opened import is_foreign, model_of, open_foreign
from ablate.model.measure import blueprint
from ablate.record import RunRecord
from ablate.registry import kernel
from ablate.spec import LayerSpec, ModelSpec, RunSpec, override
from ablate.train.state.weights import WEIGHTS_FILE, WeightsMismatch, fitting


def started(spec: RunSpec, prepared: Prepared, start: Path) -> RunSpec:
    """The specification with its parent. Raises FileNotFoundError, or WeightsMismatch where the run in
    `start` cannot
    be gone on from: it is not finished, spoke in other tokens, or left weights that are damaged or do not fit
    this model. `start` may also be a Hugging Face folder or an imported one (raises
    CheckpointFormatError)."""
    parent, tokenizer = _foreign(start) if is_foreign(start) else _run(start)
    if spec.parent not in (None, parent):
        raise WeightsMismatch(f"{start} holds {parent}, but parent is {spec.parent}")
    if tokenizer != prepared.fingerprint.get("tokenizer"):
        raise WeightsMismatch(f"the model in {start} was trained on the tokens of another tokenizer")
    model = spec.model.model_copy(update={"kernel": kernel.parse("auto")})  # it has no weights
    with fitting(blueprint(model).state_dict(), start / WEIGHTS_FILE):
        pass
    return spec.model_copy(update={"parent": parent})


def started_model(start: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The model in `start`, a run's or a foreign one, with changes to its options in every layer.

    Raises FileNotFoundError, CheckpointFormatError, and ValueError for a record that is not one.
    """
    if is_foreign(start):
        model: Any = model_of(start).model_dump(mode="json")
    else:
        model = RunRecord.load(start).spec.get("model")
        if not isinstance(model, dict):
            raise ValueError(f"{start}: its record describes no model; train that run again: rerun=true")
    of_layers = {key: value for key, value in changes.items() if key in LayerSpec.model_fields}
    variants = {name: override(layer, of_layers) for name, layer in model.get("variants", {}).items()}
    whole: dict[str, Any] = override({**model, "variants": variants}, changes)
    return whole


def refuse_another_model(model: ModelSpec, start: Path) -> None:
    """Weights that others trained mean nothing under other options of the same shapes. Raises
    WeightsMismatch."""
    if not is_foreign(start):
        return
    lost = differences(canonical(model), canonical(model_of(start)))
    wrong = [f"{path} is {ours!r}, and there {theirs!r}" for path, ours, theirs in lost if path != "context"]
    if wrong:
        raise WeightsMismatch(
            f"the model is not the one in {start}: {'; '.join(wrong)}. model=started takes it from there; "
            "changes are then said as +model.context=512"
        )


def _run(start: Path) -> tuple[str, str | None]:
    """The id of a run, and the hash of its tokenizer. Raises WeightsMismatch, FileNotFoundError."""
    record = RunRecord.load(start)
    if record.status != "finished":
        raise WeightsMismatch(f"the run {record.id} is {record.status}, not finished")
    return record.id, record.fingerprint.get("tokenizer")


def _foreign(start: Path) -> tuple[str, str | None]:
    """The same of a model that no run of ours left."""
    foreign = open_foreign(start)
    if foreign.tokenizer is None:
        raise WeightsMismatch(
            f"{start} has no tokenizer.json with a token that ends a document, so whether this text "
            "is in its tokens cannot be known"
        )
    return foreign.id, foreign.tokenizer.hash()
