"""Tables of what the factors of a design do: effects and interactions, and each ingredient alone."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ablate.amounts import TIMES, places_of
from ablate.study.judge.corpus import Judged
from ablate.study.report.table import Column, Table, ends, figure, label_column, table_of
from ablate.study.stats.factorial import Factorial
from ablate.study.stats.intervals import Estimate


def factor_tables(judged: Judged) -> Iterator[Table]:
    """The tables of the design's factors; none for a design without."""
    if judged.factorial is not None:
        yield _effects(judged.factorial)
        if judged.factorial.simple:
            yield _simple_effects(judged.factorial)
    if judged.ingredients:
        yield _ingredients(judged)


def _effects(factorial: Factorial) -> Table:
    import pandas as pd

    title = "Main effects and interactions"
    if factorial.waiting:
        note = f"Waiting for {len(factorial.waiting)} runs, first of all {factorial.waiting[0]}."
        return Table(title, ("effect",), (("waiting",),), note)
    frame = pd.DataFrame([effect.model_dump() for effect in factorial.effects])
    places = places_of((frame["high"] - frame["low"]) / 2)
    columns = [
        Column("effect", lambda row: f" {TIMES} ".join(row["factors"]), numeric=False),
        Column("from", lambda row: ", ".join(row["references"]), numeric=False),
        Column("to", lambda row: ", ".join(row["levels"]), numeric=False),
        figure("difference", "difference", places, signed=True),
        ends("interval", places),
        Column(
            "",
            _flag,
            numeric=False,
        ),
    ]
    note = (
        f"{factorial.metric}: the mean at the second level minus the mean at the first; for a pair, how "
        f"much that changes when the other factor changes, and so on. The intervals hold together at "
        f"{100 * (1 - factorial.alpha):g} %."
    )
    note += " Judged among the runs that finished." if factorial.conditional else ""
    return table_of(title, frame, columns, note)


def _flag(row: Any) -> str:
    text = "excludes 0" if row["low"] > 0 or row["high"] < 0 else "contains 0"
    return f"{text}; its sign is not that of every cell" if row["in_every_cell"] is False else text


def _simple_effects(factorial: Factorial) -> Table:
    """What each factor does in every cell of the others."""
    import pandas as pd

    frame = pd.DataFrame([effect.model_dump() for effect in factorial.simple])
    places = places_of((frame["high"] - frame["low"]) / 2)
    columns = [
        Column("factor", lambda row: row["factors"][0], numeric=False),
        Column("from", lambda row: row["references"][0], numeric=False),
        Column("to", lambda row: row["levels"][0], numeric=False),
        Column("in the cell", lambda row: ", ".join(row["within"].values()), numeric=False),
        figure("difference", "difference", places, signed=True),
        ends("interval", places),
    ]
    note = "Described, not decided: the intervals have the level of one effect above, and hold each alone."
    return table_of("Each factor in every cell of the others", frame, columns, note)


def _ingredients(judged: Judged) -> Table:
    """Each factor in one row: added to one end of the way, left out of the other."""
    import pandas as pd

    estimates = [e for i in judged.ingredients for e in (i.added, i.left_out) if e]
    places = places_of([(e.high - e.low) / 2 for e in estimates])
    frame = pd.DataFrame(
        [
            {"factor": i.factor, **_named("added", i.added), **_named("left out", i.left_out)}
            for i in judged.ingredients
        ]
    )
    columns = [label_column("factor")]
    for how in ("added", "left out"):
        columns.append(figure(how, f"{how} difference", places, signed=True))
        columns.append(ends("interval", places, low=f"{how} low", high=f"{how} high"))
    first, last = _ends(judged)
    note = "With minus without, so that both agree where nothing interacts. Blank where runs are missing."
    if first:
        note = f"Added to {first}, and left out of {last}. {note}"
    note += " The intervals of this table hold together."
    note += " Judged among the runs that finished." if judged.ingredients[0].conditional else ""
    return table_of("Each ingredient, added alone and left out", frame, columns, note)


def _named(how: str, estimate: Estimate | None) -> dict[str, float | None]:
    names = ("difference", "low", "high")
    return {f"{how} {name}": asdict(estimate)[name] if estimate else None for name in names}


def _ends(judged: Judged) -> tuple[str, str]:
    """The cells of a factorial between which ingredients are added; empty for other designs."""
    if judged.factorial is None:
        return "", ""
    cells = [", ".join(levels[at] for levels in judged.factorial.factors.values()) for at in (0, -1)]
    return cells[0], cells[1]
