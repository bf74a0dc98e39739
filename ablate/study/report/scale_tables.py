"""Tables of a study over several sizes."""

import math

from ablate.amounts import amount
from ablate.study.judge.scale import Scale, Size, Trend
from ablate.study.report.phrasing import MINUS, decimals, interval, number, places_of, probability, unit
from ablate.study.report.table import Table


def scale_tables(scale: Scale, metric: str, alpha: float) -> list[Table]:
    """The gaps by size, and the ranks."""
    return [table for table in (_trends(scale, metric), _ranks(scale, alpha)) if table is not None]


def _trends(scale: Scale, metric: str) -> Table | None:
    comparison = scale.comparison
    if comparison is None:
        return None
    known = [found for found in scale.trends if found.low is not None and found.high is not None]
    places = places_of([(found.high - found.low) / 2 for found in known])  # type: ignore[operator]
    bends = len(scale.sizes) > 2
    rows = [
        (
            found.arm,
            found.word,
            number(found.slope, places, True),
            interval(found.low, found.high, places),
            str(found.n),
            *([str(found.df or "")] if comparison.variance == "paired" else []),
            *(_gap(size, found) for size in scale.sizes),
            *([number(found.bend, places)] if bends else []),
        )
        for found in scale.trends
    ]
    columns = [
        "arm",
        "the gap",
        "slope",
        "interval",
        "seeds",
        *(["df"] if comparison.variance == "paired" else []),
        *(f"at {size.name} ({amount(size.parameters)})" for size in scale.sizes),
        *(["off the line"] if bends else []),
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
    return Table("Gap by size", tuple(columns), tuple(rows), note, tuple(range(2, len(columns))))


def _gap(size: Size, found: Trend) -> str:
    verdict, places = size.gap(found.arm), decimals(size.judged.comparison)
    if verdict is None or verdict.difference is None:
        return ""
    return f"{number(verdict.difference, places, True)} {interval(verdict.low, verdict.high, places)}"


def _ranks(scale: Scale, alpha: float) -> Table | None:
    rows = [
        (
            f"{rank.first}, {rank.second}",
            number(rank.tau, 2, True),
            interval(rank.low, rank.high, 2),
            probability(rank.p),
            str(len(rank.arms)),
            str(rank.n),
            rank.reason,
        )
        for rank in scale.ranks
    ]
    few = any(rank.n < 6 for rank in scale.ranks)
    note = (
        "Kendall's tau between the arms' means at two sizes: 1 is the same order, -1 the reverse; the "
        f"placebo is left out. Range: {100 * (1 - alpha):g} % of bootstrap draws of the seeds"
        + (", too few of them: it is too narrow" if few else "")
        + ". p: how often ranks at random agree or disagree as much, exact."
    ).replace("-1", f"{MINUS}1")
    columns = ["sizes", "tau", "range", "p", "arms", "seeds"]
    said = any(rank.reason for rank in scale.ranks)
    return Table(
        "Do the arms keep their ranks?",
        (*columns, *([""] if said else [])),
        tuple(row if said else row[:-1] for row in rows),
        note,
        (1, 2, 3, 4, 5),
    )
