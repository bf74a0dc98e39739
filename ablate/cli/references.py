"""Published models as reference lines of a study: measured on its text, and never trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.cli.compose import ConfigError
from ablate.cli.workspace import Workspace
from ablate.spec import DataSpec
from ablate.study.design.planned import Plan, PlannedArm

if TYPE_CHECKING:
    from ablate.data.split import Split
    from ablate.measure.trained import Trained
    from ablate.train.evaluate import Evaluation

ROWS_AT_A_TIME = 8  # of one forward pass


def check_references(planned: Plan) -> None:
    """Raise ConfigError where a reference of the study is no model that can read its texts."""
    if not planned.study.references:
        return
    from ablate.cli.exchange import ModelNotMeasured, refuse_reading, tokenizer_folder
    from ablate.model.hf import CheckpointFormatError
    from ablate.model.hf.opened import is_foreign, model_of

    for name, place in planned.study.references.items():
        folder = Path(place)
        if not is_foreign(folder):
            raise ConfigError([f"references.{name}: {folder} is no Hugging Face folder or imported one"])
        try:
            model_of(folder)
        except (CheckpointFormatError, OSError) as error:
            raise ConfigError([f"references.{name}: {error}"]) from None
        if not (tokenizer_folder(folder) / "tokenizer.json").is_file():
            raise ConfigError([f"references.{name}: {folder} has no tokenizer.json, so it reads no text"])
    for arm in baselines(planned):
        try:
            refuse_reading(DataSpec.model_validate(arm.spec["data"]), f"references: arm {arm.name}")
        except ModelNotMeasured as error:
            raise ConfigError([str(error)]) from None


def baselines(planned: Plan) -> list[PlannedArm]:
    """The baseline of each corpus and size: its text and context are what references read."""
    return [planned.on(corpus)[0] for corpus in planned.corpora]


def measured_references(
    planned: Plan, workspace: Workspace, known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each reference on each corpus: its size, and its bits per byte on the split that the metric
    of the study is of, by set too. Rows of `known` are kept where model, text and reading are the same.

    A model reads in its own tokens, in windows of the baseline's context or of its own if that is shorter.
    """
    from ablate.cli.exchange import in_tokens_of
    from ablate.data.prepare import prepare
    from ablate.measure.trained import open_run
    from ablate.train.texts import scores, texts_of

    kind = split_of_metric(planned.study.metric)
    for name, place in planned.study.references.items():
        trained = open_run(Path(place), workspace.device)
        for arm in baselines(planned):
            asked = in_tokens_of(DataSpec.model_validate(arm.spec["data"]), trained, Path(place))
            prepared = prepare(asked, workspace.options.cache)
            context = min(arm.spec["model"]["context"], trained.decoder.spec.context)
            row = {
                "reference": name,
                "corpus": arm.corpus,
                "model": trained.record.id,
                "text": " ".join(prepared.fingerprint.values()),
                "read": f"{kind}, {asked.documents}, {context} tokens at a time",
                "parameters": sum(p.numel() for p in trained.decoder.parameters()),
            }
            same = [each for each in known if all(each.get(key) == value for key, value in row.items())]
            if same:
                yield same[0]
                continue
            found = scores(texts_of(prepared, kind), reader(trained, asked, context), kind)[1]
            yield row | {key: value for key, value in found.items() if key.endswith("/bits_per_byte")}


def split_of_metric(metric: str) -> Any:
    """validation where the metric is of validation, else heldout."""
    return "validation" if metric.startswith("validation/") else "heldout"


def reader(trained: "Trained", data: DataSpec, context: int) -> Any:
    """What evaluates a split in windows of `context` tokens."""
    from ablate.train.evaluate import evaluate

    def evaluated(split: "Split") -> "Evaluation":
        return evaluate(trained.decoder, split, context, data.documents, ROWS_AT_A_TIME)

    return evaluated


def update_references(planned: Plan, workspace: Workspace, folder: Path) -> None:
    """Measure what is missing, and keep it beside the results of the study in `folder`."""
    from ablate.study.results import read_results, write_references

    if not planned.study.references:
        return
    before = read_results(folder).references
    known = [] if before is None else before.to_dict("records")
    rows = measured_references(planned, workspace, [{str(k): v for k, v in row.items()} for row in known])
    write_references(folder, list(rows))
