"""To begin where another run ended."""

from pathlib import Path

from ablate.data.prepare import Prepared
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train.weights import FILE, Unfit


def started(spec: RunSpec, prepared: Prepared, start: Path) -> RunSpec:
    """The specification with its parent. Raises FileNotFoundError, or Unfit where the run in `start` cannot
    be gone on from: it is not finished, kept no weights, or spoke in other tokens."""
    record = RunRecord.load(start)
    if record.status != "finished":
        raise Unfit(f"start: the run {record.id} is {record.status}, not finished")
    if spec.parent not in (None, record.id):
        raise Unfit(f"start: {start} holds the run {record.id}, but parent is {spec.parent}")
    if record.fingerprint.get("tokenizer") != prepared.fingerprint.get("tokenizer"):
        raise Unfit(f"start: the run {record.id} was trained on the tokens of another tokenizer")
    if not (start / FILE).is_file():
        raise FileNotFoundError(f"start: {start / FILE} is missing; that run kept no weights (keep=none)")
    return spec.model_copy(update={"parent": record.id})
