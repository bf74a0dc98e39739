"""Any records, compared: a plain multirun becomes a study after the fact.

Arms are the combinations of the options in which the records differ, seeds apart. What comes of it is
exploratory: nothing was declared, tuned or matched.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ablate.record import RunRecord
from ablate.study.design.differences import flatten
from ablate.study.design.planned import TARGETS

if TYPE_CHECKING:
    import pandas

SEEDS = ("seed.init", "seed.data", "seed.dropout")  # `seed.redraw` makes an arm: the placebo
UNTITLED = "all"  # the only arm, where nothing differs


class AdHocResults(NamedTuple):
    """The frame that the judge reads, and what it is about."""

    frame: "pandas.DataFrame"  # arm, seed, status, role, the metrics
    axes: tuple[str, ...]  # the paths in which the records differ
    baseline: str  # the arm with the most runs, the first of those by name
    metric: str
    mixed: tuple[str, ...]  # what should be equal and is not: code, kernel, precision, device


def gather_arms(records: Sequence[RunRecord]) -> AdHocResults:
    """Raises ValueError where there is nothing to compare."""
    import pandas

    if not records:
        raise ValueError("no records to compare")
    texts = {r.fingerprint.get("source", "") for r in records}
    if len(texts) > 1:
        raise ValueError(
            f"the runs are of {len(texts)} texts, whose losses do not compare; take those of one"
        )
    flat = [{k: _hashable(v) for k, v in flatten(r.spec).items()} for r in records]
    paths = sorted({path for spec in flat for path in spec if path not in SEEDS})
    axes = tuple(p for p in paths if len({spec.get(p) for spec in flat}) > 1)
    if moved := [axis for axis in axes if axis in TARGETS]:
        raise ValueError(
            f"the runs differ in {moved[0]}, which decides what is a target, so their losses do not compare; "
            "take those of one"
        )
    named = telling(flat, axes)
    names = [arm_name(spec, named) for spec in flat]
    seeds = [int(r.spec["seed"]["init"]) for r in records]
    held = all("heldout/loss" in r.metrics for r in records if r.status == "finished")
    unit = "loss" if len({r.fingerprint.get("tokenizer") for r in records}) == 1 else "bits_per_byte"
    metric = f"{'heldout' if held else 'validation'}/{unit}"
    rows = [
        {"arm": name, "seed": seed, "status": r.status, "role": "test", "id": r.id, **r.metrics}
        for name, seed, r in zip(names, seeds, records, strict=True)
    ]
    many = Counter(names)
    baseline = min(many, key=lambda name: (-many[name], name))
    return AdHocResults(pandas.DataFrame(rows), axes, baseline, metric, mixed(records, names))


def telling(specs: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> tuple[str, ...]:
    """The axes that arms are named by: where parts of several names differ, their options go without saying,
    unless two arms would be called the same."""
    parts = tuple(axis.removesuffix("name") for axis in axes if axis.endswith(".name"))
    short = tuple(axis for axis in axes if axis.endswith(".name") or not axis.startswith(parts))
    arms = {tuple(spec.get(axis) for axis in axes) for spec in specs}
    shorter = {tuple(spec.get(axis) for axis in short) for spec in specs}
    return short if len(shorter) == len(arms) else tuple(axes)


def arm_name(spec: Mapping[str, Any], axes: Sequence[str]) -> str:
    """`model.norm.name=rmsnorm`, shortened to what tells the arms apart."""
    return ", ".join(f"{axis.removeprefix('model.')}={spec.get(axis)}" for axis in axes) or UNTITLED


def mixed(records: Sequence[RunRecord], arms: Sequence[str]) -> tuple[str, ...]:
    """What makes records incomparable, in words. The sources of two arms may differ, as their parts do."""
    codes: dict[str, set[str]] = {}
    for record, arm in zip(records, arms, strict=True):
        codes.setdefault(arm, set()).add(record.source_hash)
    facts = {
        "sources of one arm": next((several for several in codes.values() if len(several) > 1), set()),
        "kernels": {r.kernel for r in records if r.kernel},
        "precisions": {str(r.spec.get("precision")) for r in records},
        "kinds of device": {str(r.provenance.get("device_kind", "")) for r in records},
    }
    return tuple(
        f"{len(values)} {name}: {', '.join(sorted(values))}"
        for name, values in facts.items()
        if len(values) > 1
    )


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list | dict) else value
