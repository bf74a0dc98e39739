"""What the runs of one comparison should share and do not."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.study.design.study import Study, under

if TYPE_CHECKING:
    import pandas as pd

_SAME = {  # what the runs of one comparison must have in common
    "precision": "precisions",
    "kernel": "kernels",
    "device_kind": "kinds of device",
    "origin/torch": "versions of torch",
}


def mixed_runs(runs: "pd.DataFrame", study: Study) -> Iterator[str]:
    """One sentence for each thing beside the arm in which the runs of a comparison differ."""
    rows = runs[runs["role"].isin(["test", "fixed"]) & runs["status"].notna()]
    for column, things in _SAME.items():
        if column not in rows.columns:
            continue
        if column == "kernel" and any(under("model.kernel", axis) for axis in study.axis):
            continue  # it is what is asked about
        if column == "precision" and any(under("precision", axis) for axis in study.axis):
            continue
        values = rows.loc[rows[column].notna() & (rows[column] != ""), column].value_counts()
        if len(values) > 1:
            each = ", ".join(f"{value} ({count} runs)" for value, count in sorted(values.items()))
            yield f"{len(values)} {things} are mixed in this comparison: {each}"
    codes = rows[rows["source_hash"] != ""].groupby("arm", sort=False)["source_hash"].nunique()
    for arm in codes.index[codes > 1]:
        each = ", ".join(sorted(rows["source_hash"][rows["arm"] == arm].unique()))
        yield f"{arm}: its runs come from {codes[arm]} versions of the code ({each})"
    stale = rows[rows["stale"].astype(bool)]
    if len(stale):
        arms = ", ".join(dict.fromkeys(stale["arm"]))
        yield f"{len(stale)} runs are stale, made by code that has changed since: {arms}"
