"""The losses of every arm on each set of validation and held-out text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.spec import MACRO
from ablate.study.judge.corpus import Judged
from ablate.study.report.summary import means, ranked
from ablate.study.report.table import Table, figure, label_column, table_of

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"validation": "validation", "heldout": "held-out"}
_NUMBERS = {"loss": "Loss", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}
_PLACES = {"loss": 4, "perplexity": 2, "bits_per_byte": 4}


def set_frame(judged: Judged) -> "pd.DataFrame":
    """One row for each arm whose verdict does not wait, and each set: the means over its finished test runs
    of the numbers of NUMBERS. Empty where no text has sets."""
    import pandas as pd

    runs = judged.runs[(judged.runs["role"] == "test") & (judged.runs["status"] == "finished")]
    known = means(judged.comparison)
    rows = []
    for kind, name in sets_of(runs):
        columns = {number: f"{kind}/{name}/{number}" for number in _NUMBERS}
        there = {number: column for number, column in columns.items() if column in runs.columns}
        for arm in filter(known.__contains__, ranked(judged)):
            found = runs[runs["arm"] == arm]
            numbers = {number: found[column].astype(float).mean() for number, column in there.items()}
            rows.append({"arm": arm, "kind": kind, "set": name, "seeds": len(found), **numbers})
    return pd.DataFrame(rows)


def sets_of(runs: "pd.DataFrame") -> Iterator[tuple[str, str]]:
    """(validation or heldout, name) of each set for which some run has a loss; the mean over sets is last."""
    found = [column.split("/") for column in runs.columns if runs[column].notna().any()]
    named = [(kind, *rest) for kind, *rest in found if kind in _KINDS and len(rest) == 2]
    for kind in _KINDS:
        names = [name for of, name, number in named if of == kind and number == "loss"]
        yield from ((kind, name) for name in sorted(names, key=lambda name: (name == MACRO, name)))


def set_tables(judged: Judged) -> Iterator[Table]:
    """One table for each number: a row for each arm, a column for each set."""
    frame = set_frame(judged)
    for kind in _KINDS if len(frame) else ():
        for number, title in _NUMBERS.items():
            if number not in frame.columns:
                continue
            here = frame[(frame["kind"] == kind) & frame[number].notna()]
            if here.empty:
                continue
            wide = here.pivot(index="arm", columns="set", values=number).reset_index()
            order = {arm: place for place, arm in enumerate(ranked(judged))}
            wide = wide.sort_values("arm", key=lambda arms: arms.map(order))
            names = list(dict.fromkeys(here["set"]))
            columns = [label_column("arm"), *(figure(name, name, _PLACES[number]) for name in names)]
            note = (
                "The mean over finished test runs, the best arm first. `macro` is the mean over "
                "the sets" + (", of perplexities that of the mean loss." if number == "perplexity" else ".")
            )
            yield table_of(f"{title} by set, {_KINDS[kind]}", wide, columns, note)
