"""The figures of a report. Whatever shows an interval draws the one that its verdict was read from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ablate.amounts import PLUS_MINUS, short
from ablate.study.judge.compare import Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.scale import Scale
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.budget_tables import draw_budgets
from ablate.study.report.curve_figures import draw_curves, draw_gaps
from ablate.study.report.drawing import (
    FAINT,
    INK,
    SOFT,
    WORD_COLOURS,
    ArmStyles,
    Drawing,
    figure_settings,
    legend,
    new_figure,
    tick_amount,
    to_drawing,
)
from ablate.study.report.phrasing import clip, in_lines
from ablate.study.report.rate_figures import draw_rates, draw_sensitivity
from ablate.study.report.reference_tables import references_on
from ablate.study.report.scale_figure import draw_gaps_by_size
from ablate.study.report.summary import COSTS, LINEAR_DECADES, Span, arm_costs, by_seed, front, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_corpus(judgement: StudyJudgement, judged: Judged, suffix: str = "") -> list[Drawing]:
    """Every figure of one corpus for which there is something to draw."""
    styles, tune = ArmStyles(judgement, judged), judgement.study.tune
    lines = published(judgement, judged)
    makers: list[tuple[str, str, str, Callable[[], Any]]] = [
        (
            "differences",
            "Differences from the baseline",
            f"{judged.comparison.metric if judged.comparison else ''}, arm minus baseline. Dots are seeds, "
            "the square is the mean, the bar is the simultaneous interval that the verdict is read from. The "
            "shaded band is the margin.",
            lambda: draw_differences(judged, styles),
        ),
        (
            "curves",
            "Training loss",
            "Means over the seeds that finished; the band runs from the lowest seed to the highest and is no "
            "test. Dotted lines that end in a cross are runs that diverged.",
            lambda: draw_curves(judgement.results.curves, judged, styles),
        ),
        (
            "gaps",
            "Gap to the baseline while training",
            "Training loss of the arm minus that of the baseline, at the same seed and tokens: the mean over "
            "seeds and, as a band, the lowest and the highest seed. The first eighth may run off the "
            "picture. It is no test; verdicts rest on the metric at the last step.",
            lambda: draw_gaps(judgement.results.curves, judged, styles),
        ),
        (
            "rates",
            "Learning rates",
            "Tuning runs: the mean over the tuning seeds and their range. The ring is the rate that was "
            "chosen; a cross is a rate at which a run failed.",
            lambda: draw_rates(judged, styles, tune),
        ),
        (
            "sensitivity",
            "Sensitivity to the rate",
            "The final loss of the tuning runs against the rate, no more than l0: the mean over the seeds. A "
            "cross at l0 (dashed, where the arms begin) is a rate at which a run diverged or ended above it.",
            lambda: draw_sensitivity(judged, styles),
        ),
        (
            "budgets",
            "Gaps against training length",
            "The same runs, ended at a share of their tokens: arm minus baseline, with the interval that "
            "holds over the arms at one share.",
            lambda: draw_budgets(judged, styles),
        ),
        (
            "costs",
            "Cost against quality",
            "Mean of the metric against what it costs. The line joins the arms that no other beats in both."
            + (" Dotted lines are published models, whatever they cost." if lines else ""),
            lambda: _costs(judged, styles, lines),
        ),
    ]
    with figure_settings():
        made = [
            to_drawing(f"{name}{suffix}", title, caption, make()) for name, title, caption, make in makers
        ]
    return [drawing for drawing in made if drawing is not None]


def draw_scale(judgement: StudyJudgement, scale: Scale, suffix: str = "") -> list[Drawing]:
    """The gap of each arm against size, where there is anything to draw."""
    caption = (
        "Arm minus baseline against the baseline's parameters without embeddings. Squares are means over "
        "seeds, bars the simultaneous intervals of the verdicts at that size; the line is the mean of the "
        "lines through each seed's gaps, dashed where the interval of its slope contains 0."
    )
    with figure_settings():
        drawing = to_drawing(
            f"scale{suffix}", "Gap against size", caption, draw_gaps_by_size(judgement, scale)
        )
    return [drawing] if drawing else []


def draw_differences(judged: Judged, styles: ArmStyles) -> "Figure | None":
    """One row for each arm that has a verdict with an interval."""
    comparison = judged.comparison
    if comparison is None:
        return None
    verdicts = [comparison.verdict(arm) for arm in styles.arms if arm != comparison.baseline]
    shown = [verdict for verdict in verdicts if verdict.low is not None]
    if not shown:
        return None
    figure = new_figure(0.75 + 0.34 * len(shown))
    axes = figure.subplots()
    axis = span(comparison)
    if comparison.margin:
        axes.axvspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.45, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    for row, verdict in enumerate(shown):
        _interval(axes, row, verdict)
        seeds = by_seed(comparison, verdict)
        axes.plot(seeds, [row + 0.24] * len(seeds), "o", color=SOFT, markersize=2.4, alpha=0.7)
    axes.set_yticks(range(len(shown)), [in_lines(verdict.arm) for verdict in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    if axis.linear is not None:
        axes.set_xscale("symlog", linthresh=axis.linear, linscale=LINEAR_DECADES)
        axes.set_xticks(_ticks(axis), [short(tick) for tick in _ticks(axis)])
        axes.minorticks_off()
    axes.set_xlim(axis.low, axis.high)
    axes.spines["left"].set_visible(False)
    better = "left" if comparison.better == "lower" else "right"
    beyond = f"\nlogarithmic beyond {PLUS_MINUS}{axis.linear:g}" if axis.linear is not None else ""
    axes.set_xlabel(f"difference in {clip(comparison.metric)} ({better} is better){beyond}")
    return figure


def _interval(axes: "Axes", row: int, verdict: Verdict) -> None:
    """The verdict's own interval, and its middle."""
    assert verdict.low is not None and verdict.high is not None and verdict.difference is not None
    colour = WORD_COLOURS[verdict.word]
    ends = (verdict.low, verdict.high)
    axes.plot(ends, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([verdict.difference], [row], "s", color=colour, markersize=4.5)


def _ticks(axis: Span) -> list[float]:
    """0, the middles and the ends of the linear part, and each decade beyond that the axis reaches."""
    assert axis.linear is not None
    right = [axis.linear / 2, *(axis.linear * 10**n for n in range(12))]
    ticks = [0.0, *right, *(-tick for tick in right)]
    return sorted(tick for tick in ticks if axis.low <= tick <= axis.high)


def published(judgement: StudyJudgement, judged: Judged) -> dict[str, float]:
    """The published models that have the metric of the study, which is then in bits per byte."""
    metric, frame = judgement.study.metric, references_on(judgement, judged.corpus)
    if metric not in frame.columns:
        return {}
    return {str(row["reference"]): float(row[metric]) for row in frame.to_dict("records")}


def _costs(judged: Judged, styles: ArmStyles, lines: Mapping[str, float]) -> "Figure | None":
    comparison = judged.comparison
    if comparison is None:
        return None
    table = arm_costs(judged)
    table = table[table["mean"].notna()]
    shown = [column for column in COSTS if table[column].nunique() >= 2]  # what all share says nothing
    if len(table) < 2 or not shown:
        return None
    rows = (len(shown) + 1) // 2
    figure = new_figure(0.1 + 1.7 * rows)
    grid = figure.subplots(rows, min(2, len(shown)), sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, column in zip(grid.flat, shown, strict=False):
        label, more = COSTS[column]
        best = front(table[column], table["mean"], more, comparison.better == "higher")
        axes.plot(table.loc[best, column], table.loc[best, "mean"], color=SOFT, linewidth=0.8, zorder=1)
        for arm in table.index:
            line = styles.line(arm)
            axes.plot(
                [table.loc[arm, column]], [table.loc[arm, "mean"]], "D" if arm == styles.baseline else "o",
                color=line["color"], markersize=4.5, label=styles.label(arm), zorder=line["zorder"] + 1,
            )  # fmt: skip
        for name, level in lines.items():
            axes.axhline(level, color=SOFT, linewidth=0.8, linestyle=":", label=clip(name))
        axes.grid()
        axes.margins(0.12)
        axes.xaxis.set_major_formatter(tick_amount)
        spread = table[column].max() - table[column].min()
        far = spread > 0.05 * table[column].abs().max()  # short labels: near numbers differ in late digits
        axes.locator_params(axis="x", nbins=4 if far else 2)
        axes.set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel(clip(comparison.metric))
    legend(figure, grid.flat[0])
    return figure
