"""Tables of a study over several sizes."""

import math
from collections.abc import Iterator

from ablate.amounts import MINUS, amount, interval_text, number, places_of
from ablate.study.judge.scale import Scale, Size
from ablate.study.report.frames import rank_frame, trend_frame
from ablate.study.report.phrasing import decimals, unit
from ablate.study.report.table import (
    Column,
    FrameRow,
    Table,
    chance,
    ends,
    figure,
    label_column,
    table_of,
    whole_column,
)


def scale_tables(scale: Scale, metric: str, alpha: float) -> list[Table]:
    """The gaps by size, and the ranks."""
    return [*_trends(scale, metric), _ranks(scale, alpha)]


def _trends(scale: Scale, metric: str) -> Iterator[Table]:
    comparison = scale.comparison
    if comparison is None:
        return
    frame = trend_frame(scale)
    places = places_of(((frame["high"] - frame["low"]) / 2).dropna())
    bends = len(scale.sizes) > 2
    columns = [
        label_column("arm"),
        label_column("the gap", "word"),
        figure("slope", "slope", places, signed=True),
        ends("interval", places),
        whole_column("seeds", "n"),
        *([whole_column("df", "df", hide_zero=True)] if comparison.variance == "paired" else []),
        *(_gap(size) for size in scale.sizes),
        *([figure("off the line", "bend", places)] if bends else []),
    ]
    decades = math.log10(scale.sizes[-1].parameters / scale.sizes[0].parameters)
    how = (
        "Student's t on the slopes by seed"
        if comparison.variance == "paired"
        else "Dunnett's in the blocked model slope ~ arm + seed"
    )
    note = (
        f"{metric}, arm minus {scale.baseline}: at each size with the interval of its verdict there, and the "
        f"slope in {unit(metric)} per decade of parameters without embeddings, by least squares. Intervals "
        f"of the slopes: {how}, {100 * (1 - comparison.alpha_spent):g} % for all together. They speak of "
        f"seeds at these sizes, over {decades:.2g} decades; beyond these nothing is known."
    )
    note += " Off the line: how far a mean gap lies from it at most." if bends else ""
    if any(verdict.conditional for verdict in comparison.verdicts):
        note += " Judged among the seeds that finished at every size."
    yield table_of("Gap by size", frame, columns, note)


def _gap(size: Size) -> Column:
    """The gap of the arm at this size, with the interval of its verdict there."""
    places = decimals(size.judged.comparison)

    def cell(row: FrameRow) -> str:
        verdict = size.gap(row["arm"])
        if verdict is None or verdict.difference is None:
            return ""
        return (
            f"{number(verdict.difference, places, True)} {interval_text(verdict.low, verdict.high, places)}"
        )

    return Column(f"at {size.name} ({amount(size.parameters)})", cell)


def _ranks(scale: Scale, alpha: float) -> Table:
    few = any(rank.n < 6 for rank in scale.ranks)
    note = (
        "Kendall's tau between the arms' means at two sizes: 1 is the same order, -1 the reverse; the "
        f"placebo is left out. Range: {100 * (1 - alpha):g} % of bootstrap draws of the seeds"
        + (", too few of them: it is too narrow" if few else "")
        + ". p: how often ranks at random agree or disagree as much, exact."
    ).replace("-1", f"{MINUS}1")
    columns = [
        Column("sizes", lambda row: f"{row['first']}, {row['second']}", numeric=False),
        figure("tau", "tau", 2, signed=True),
        ends("range", 2),
        chance("p", "p"),
        Column("arms", lambda row: str(row["ranked"])),
        whole_column("seeds", "n"),
    ]
    if any(rank.reason for rank in scale.ranks):
        columns.append(label_column("", "reason"))
    frame = rank_frame(scale).assign(ranked=[len(rank.arms) for rank in scale.ranks])
    return table_of("Do the arms keep their ranks?", frame, columns, note)
