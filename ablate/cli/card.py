"""README.md of an exported model: what it is, where it comes from, and what a study found of it."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.amounts import amount
from ablate.record import RunRecord

_PARTS = {
    "Norm": "norm",
    "Placement": "placement",
    "Topology": "topology",
    "Position": "position",
    "Attention": "attention",
    "Feed-forward": "ffn",
}
_LOSSES = ("validation/loss", "heldout/loss", "heldout/bits_per_byte")


def card(record: RunRecord, family: str | None, tokenizer: str, verdicts: list[str]) -> str:
    """The Markdown, with the front matter that model hubs read. `tokenizer` says what was written of it;
    without a family the model's own code lies beside it."""
    model = record.spec["model"]
    facts = {
        "Run" if "budget" in record.spec else "Imported as": f"`{record.id}`",
        "Family": f"`{family}`" if family else "",
        "Parameters": amount(record.counts.get("parameters")),
        "Width, depth, heads": f"{model['width']}, {model['depth']}, {model['heads']}",
        "Context": f"{model['context']} tokens",
        **{label: f"`{_name(model[part])}`" for label, part in _PARTS.items()},
        "Tokenizer": tokenizer,
        **_training(record),
    }
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- ablate",
        "---",
        "",
    ]
    how = "`AutoModelForCausalLM`"
    how += "" if family else " and `trust_remote_code=True`: its code lies beside it"
    size = amount(record.counts.get("parameters")) or "unknown"
    lines += [f"# A `{family or 'decoder'}` of {size} parameters", ""]
    lines += [f"Exported by `python -m ablate export`. Read it with {how}.", ""]
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {key} | {_cell(value)} |" for key, value in facts.items() if value),
        "",
    ]
    if verdicts:
        lines += ["## Verdict", "", *(f"- {verdict}" for verdict in verdicts), ""]
    return "\n".join(lines)


def verdicts_on(run: str, experiments: Path) -> list[str]:
    """What the committed studies say of a run's arm: one sentence for each study that holds the run."""
    return [
        line
        for study in sorted(experiments.glob("*/tables/runs.csv"))
        for line in _verdict(run, study.parent)
    ]


def _verdict(run: str, tables: Path) -> Iterator[str]:
    places = dict.fromkeys(
        (row["corpus"], row["arm"]) for row in _rows(tables / "runs.csv") if row["id"] == run
    )
    for corpus, arm in places:
        judged = [row for row in _rows(tables / "verdicts.csv") if row["corpus"] == corpus]
        own = [row["reason"] for row in judged if row["arm"] == arm]
        if not own and judged and judged[0]["baseline"] == arm:
            own = [f"{arm} is the baseline"]
        if own:
            yield f"Study `{tables.parent.name}` on {corpus}, by {judged[0]['metric']}: {own[0]}."


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _training(record: RunRecord) -> dict[str, str]:
    """What a run says beyond its model; nothing of a model that was imported."""
    spec: Mapping[str, Any] = record.spec
    if "budget" not in spec:
        return {"Origin": "weights that were imported"}
    source = spec["data"]["source"]
    losses = {name: record.metrics.get(name) for name in _LOSSES}
    return {
        "Text": f"`{_name(source)}`, documents {spec['data']['documents']}",
        "Trained on": f"{amount(spec['budget']['tokens'])} tokens",
        "Optimizer": f"`{_name(spec['optim'])}`, precision {spec['precision']}",
        **{name: f"{value:.4f}" for name, value in losses.items() if value is not None},
        "Started from": f"`{spec['parent']}`" if spec.get("parent") else "",
    }


def _name(part: Any) -> str:
    return str(part["name"] if isinstance(part, Mapping) else part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
