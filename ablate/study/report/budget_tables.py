"""The gaps against training length and effective speed-ups: tables, and a panel with the same intervals."""

from typing import TYPE_CHECKING

from ablate.amounts import interval_text, number, places_of, short
from ablate.study.judge.corpus import Judged
from ablate.study.report.drawing import ArmStyles, legend, new_figure
from ablate.study.report.table import Table
from ablate.study.stats.speedup import SpeedUp

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def budget_table(judged: Judged) -> Table | None:
    """One row for each arm beside the baseline, one column for each budget; None without shorter budgets."""
    gaps = judged.budget_gaps
    if not gaps or judged.comparison is None:
        return None
    budgets = sorted({gap.budget for gap in gaps})
    halves = [(gap.high - gap.low) / 2 for gap in gaps if gap.high is not None and gap.low is not None]
    places = places_of(halves)
    rows = []
    for arm in dict.fromkeys(gap.arm for gap in gaps):
        cells = {gap.budget: gap for gap in gaps if gap.arm == arm}
        row = [arm]
        for budget in budgets:
            gap = cells.get(budget)
            if gap is None or gap.difference is None or gap.low is None or gap.high is None:
                row.append("waiting")
            else:
                span = interval_text(gap.low, gap.high, places, True)
                row.append(f"{number(gap.difference, places, True)} {span}")
        rows.append(tuple(row))
    note = (
        f"Differences in {judged.comparison.metric}, arm minus {judged.comparison.baseline}, where the same "
        "runs are ended at a share of their tokens, each with a decay of its own. Intervals hold together "
        "over the arms of one column; the last column is the verdict, the others describe."
    )
    columns = ("arm", *(f"{budget:g} of the tokens" for budget in budgets))
    return Table(
        "Gaps against training length", columns, tuple(rows), note, numeric=tuple(range(1, len(columns)))
    )


def speed_up_table(judged: Judged) -> Table | None:
    """How many times the baseline's cost gives each arm's loss; None without shorter budgets."""
    if not judged.speed_ups:
        return None
    rows = tuple(
        (each.arm, _multiple(each.tokens), _multiple(each.flops), _multiple(each.seconds), each.words)
        for each in judged.speed_ups
    )
    note = (
        "How many times the tokens, FLOPs and measured seconds of the baseline give the loss of the arm; "
        "where the arm is better, the whole baseline against a part of the arm. Intervals by inverting "
        "Student's t over seeds, together over the arms of one column. Seconds are those of this machine."
    )
    columns = ("arm", "tokens", "FLOPs", "seconds", "verdict")
    return Table("Effective speed-up", columns, rows, note, numeric=(1, 2, 3))


def _multiple(found: SpeedUp | None) -> str:
    """A multiple with its interval; `...` for an end that the budgets do not reach."""
    if found is None:
        return ""
    low, high = ("..." if end is None else short(end, 3) for end in (found.low, found.high))
    if found.multiple is None:
        return found.reason
    return f"{short(found.multiple, 3)} [{low}, {high}]"


def draw_budgets(judged: Judged, styles: ArmStyles) -> "Figure | None":
    """The gap of each arm against the share of the tokens; None without shorter budgets."""
    gaps = [gap for gap in judged.budget_gaps if gap.difference is not None]
    if len({gap.budget for gap in gaps}) < 2 or judged.comparison is None:
        return None
    import numpy as np

    figure = new_figure(2.7)
    axes = figure.subplots()
    axes.axhline(0, color="0.5", linewidth=0.8)
    for arm in [arm for arm in styles.arms if any(gap.arm == arm for gap in gaps)]:
        mine = sorted((gap for gap in gaps if gap.arm == arm), key=lambda gap: gap.budget)
        line, shares = styles.line(arm), [gap.budget for gap in mine]
        middle, low, high = (
            np.array([getattr(gap, end) for gap in mine], dtype=float)
            for end in ("difference", "low", "high")
        )
        axes.plot(shares, middle, marker="o", markersize=2.5, label=styles.label(arm), **line)
        axes.vlines(shares, low, high, color=line["color"], linewidth=0.8, alpha=0.6)
    axes.set_xscale("log")
    shares = sorted({gap.budget for gap in gaps})
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("share of the tokens")
    axes.set_ylabel(f"difference to {judged.comparison.baseline}")
    legend(figure, axes)
    return figure
