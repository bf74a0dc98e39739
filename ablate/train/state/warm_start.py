"""To begin where another run ended."""

from pathlib import Path

from ablate.data.prepare import Prepared
from ablate.model.measure import blueprint
from ablate.record import RunRecord
from ablate.registry import kernel
from ablate.spec import RunSpec
from ablate.train.state.weights import FILE, Unfit, fitting


def started(spec: RunSpec, prepared: Prepared, start: Path) -> RunSpec:
    """The specification with its parent. Raises FileNotFoundError, or Unfit where the run in `start` cannot
    be gone on from: it is not finished, spoke in other tokens, or left weights that are damaged or do not fit
    this model."""
    record = RunRecord.load(start)
    if record.status != "finished":
        raise Unfit(f"the run {record.id} is {record.status}, not finished")
    if spec.parent not in (None, record.id):
        raise Unfit(f"{start} holds the run {record.id}, but parent is {spec.parent}")
    if record.fingerprint.get("tokenizer") != prepared.fingerprint.get("tokenizer"):
        raise Unfit(f"the run {record.id} was trained on the tokens of another tokenizer")
    model = spec.model.model_copy(update={"kernel": kernel.parse("auto")})  # it has no weights
    with fitting(blueprint(model).state_dict(), start / FILE):
        pass
    return spec.model_copy(update={"parent": record.id})
