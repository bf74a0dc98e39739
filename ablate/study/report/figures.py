"""The figures of a report. Whatever shows an interval draws the one that its verdict was read from.

Each is drawn once, one column of a paper wide, and saved as SVG and PDF. In the HTML page the same SVG stands
inline; its colours become variables of the style sheet there, so that it follows the page into the dark.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.amounts import amount
from ablate.study.judge.compare import Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.scale import Scale
from ablate.study.report.phrasing import clip, unit
from ablate.study.report.summary import COSTS, Span, arm_costs, by_seed, front, ranked, span
from ablate.study.results import Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2  # inches
INK, SOFT, FAINT, PAPER = "#1c2430", "#5b6675", "#d5dae1", "#fefefe"
WORDS = {
    "better": "#0d7a55",
    "worse": "#b5362c",
    "equivalent": "#2f62b4",
    "undecided": "#8a6a12",
    "waiting": "#77808d",
}
ARMS = ("#3567b7", "#c8632b", "#1f8a6b", "#9a4f9f", "#b58a17", "#c2456b", "#4a9bb0", "#6b7a35")
STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
VARIABLES = {  # colour in the file -> variable of the style sheet
    INK: "--ink",
    SOFT: "--soft",
    FAINT: "--faint",
    PAPER: "--paper",
    **{colour: f"--{word}" for word, colour in WORDS.items()},
    **{colour: f"--arm{n}" for n, colour in enumerate(ARMS)},
}
DRAWN = 10  # curves with a colour of their own; the others are grey
LETTERS = 70  # of a legend, in one line
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "ablate",  # the names inside a file do not change from one drawing to the next
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,  # a $ in the name of an arm is a $
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Drawing:
    """One figure: the name of its file, what it shows, and the file's contents."""

    name: str
    title: str
    caption: str
    svg: str
    pdf: bytes


def draw(results: Results, judged: Judged, suffix: str = "") -> list[Drawing]:
    """Every figure of one corpus for which there is something to draw."""
    look = _Look(results, judged)
    makers: list[tuple[str, str, str, Callable[[], Any]]] = [
        (
            "differences",
            "Differences from the baseline",
            f"{judged.comparison.metric if judged.comparison else ''}, arm minus baseline. Dots are seeds, "
            "the square is the mean, the bar is the simultaneous interval that the verdict is read from. The "
            "shaded band is the margin.",
            lambda: _differences(look),
        ),
        (
            "curves",
            "Training loss",
            "Means over the seeds that finished; the band runs from the lowest seed to the highest and is no "
            "test. Dotted lines that end in a cross are runs that diverged.",
            lambda: _curves(look),
        ),
        (
            "rates",
            "Learning rates",
            "Tuning runs: the mean over the tuning seeds and their range. The ring is the rate that was "
            "chosen; a cross is a rate at which a run failed.",
            lambda: _rates(look),
        ),
        (
            "sensitivity",
            "Sensitivity to the rate",
            "The final loss of the tuning runs against the rate, no more than l0: the mean over the seeds. A "
            "cross at l0 (dashed, where the arms begin) is a rate at which a run diverged or ended above it.",
            lambda: _sensitivity(look),
        ),
        (
            "costs",
            "Cost against quality",
            "Mean of the metric against what it costs. The line joins the arms that no other beats in both.",
            lambda: _costs(look),
        ),
    ]
    with _settings():
        made = [_drawn(f"{name}{suffix}", title, caption, make()) for name, title, caption, make in makers]
    return [drawing for drawing in made if drawing is not None]


def draw_scale(results: Results, scale: Scale, suffix: str = "") -> list[Drawing]:
    """The gap of each arm against size, where there is anything to draw."""
    caption = (
        "Arm minus baseline against the baseline's parameters without embeddings. Squares are means over "
        "seeds, bars the simultaneous intervals of the verdicts at that size; the line is the mean of the "
        "lines through each seed's gaps, dashed where the interval of its slope contains 0."
    )
    with _settings():
        drawing = _drawn(f"scale{suffix}", "Gap against size", caption, _scale(results, scale))
    return [drawing] if drawing else []


def _drawn(name: str, title: str, caption: str, figure: "Figure | None") -> Drawing | None:
    if figure is None:
        return None
    svg, pdf = _saved(figure)
    return Drawing(name, title, caption, svg, pdf)


def inline(drawing: Drawing) -> str:
    """The SVG to stand inside a page: no header, names of its own, colours as variables."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>\s*", "", svg, flags=re.DOTALL)  # it would reach the whole page
    svg = re.sub(r'\bid="', f'id="{drawing.name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{drawing.name}-", svg)
    svg = re.sub(r'href="#', f'href="#{drawing.name}-', svg)
    # matplotlib escapes < and > in text, so that what follows cannot reach out of an attribute
    for colour, variable in VARIABLES.items():
        svg = re.sub(rf'(?<=[ :"]){colour}(?=[;"])', f"var({variable})", svg)
    svg = svg.replace("'DejaVu Sans'", "inherit")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{drawing.title}"', 1)


class _Look:
    """What the figures of a corpus have in common: the arms in order, and the colour of each."""

    def __init__(self, results: Results, judged: Judged) -> None:
        self.judged = judged
        self.curves = results.curves
        self.baseline, self.placebo = results.manifest.baseline, results.manifest.placebo
        tune = results.manifest.study.tune
        self.tuned = tune.metric if tune else ""
        self.nested = tune is not None and tune.nested
        self.arms = ranked(judged)
        others = [arm for arm in self.arms if arm not in (self.baseline, self.placebo)]
        self.coloured = others[:DRAWN]
        self.colours = {arm: ARMS[n % len(ARMS)] for n, arm in enumerate(self.coloured)}
        self.styles: dict[str, Any] = {arm: STYLES[n // len(ARMS)] for n, arm in enumerate(self.coloured)}

    def line(self, arm: str) -> dict[str, Any]:
        if arm == self.baseline:
            return {"color": INK, "linestyle": "-", "linewidth": 1.6, "zorder": 3}
        if arm == self.placebo:
            return {"color": SOFT, "linestyle": STYLES[2], "linewidth": 1.2, "zorder": 2}
        if arm in self.colours:
            return {
                "color": self.colours[arm], "linestyle": self.styles[arm], "linewidth": 1.3, "zorder": 4,
            }  # fmt: skip
        return {"color": FAINT, "linestyle": "-", "linewidth": 0.8, "zorder": 1}

    def label(self, arm: str) -> str:
        if arm in (self.baseline, self.placebo) or arm in self.colours:
            return clip(arm)
        return "_"  # no entry in the legend


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        yield


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def _saved(figure: "Figure") -> tuple[str, bytes]:
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it is laid out already
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return svg.getvalue(), pdf.getvalue()


def _differences(look: _Look) -> "Figure | None":
    """One row for each arm that has a verdict with an interval."""
    comparison = look.judged.comparison
    if comparison is None:
        return None
    verdicts = [comparison.verdict(arm) for arm in look.arms if arm != comparison.baseline]
    shown = [verdict for verdict in verdicts if verdict.low is not None]
    if not shown:
        return None
    figure = _figure(0.75 + 0.34 * len(shown))
    axes = figure.subplots()
    axis = span(comparison)
    if comparison.margin:
        axes.axvspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.45, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    for row, verdict in enumerate(shown):
        _interval(axes, row, verdict, axis)
        seeds = by_seed(comparison, verdict)
        inside = [value for value in seeds if axis.low <= value <= axis.high]
        axes.plot(inside, [row + 0.24] * len(inside), "o", color=SOFT, markersize=2.4, alpha=0.7)
    axes.set_yticks(range(len(shown)), [clip(verdict.arm) for verdict in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(axis.low, axis.high)
    axes.spines["left"].set_visible(False)
    better = "left" if comparison.better == "lower" else "right"
    axes.set_xlabel(f"difference in {clip(comparison.metric)} ({better} is better)")
    return figure


def _interval(axes: "Axes", row: int, verdict: Verdict, axis: Span) -> None:
    """The verdict's own interval, cut at the ends of the axis with an arrow."""
    assert verdict.low is not None and verdict.high is not None and verdict.difference is not None
    colour = WORDS[verdict.word]
    ends = max(verdict.low, axis.low), min(verdict.high, axis.high)
    axes.plot(ends, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
    for cut, marker, end in zip(axis.beyond(verdict), "<>", (axis.low, axis.high), strict=True):
        if cut:
            axes.plot([end], [row], marker, color=colour, markersize=5, clip_on=False)
    if axis.low <= verdict.difference <= axis.high:
        axes.plot([verdict.difference], [row], "s", color=colour, markersize=4.5)


def _curves(look: _Look) -> "Figure | None":
    curves = look.curves[look.curves["id"].isin(set(look.judged.runs["id"]))]
    if curves.empty:
        return None
    figure = _figure(2.7)
    axes = figure.subplots()
    runs = look.judged.runs[look.judged.runs["role"] == "test"]
    by_run = dict(iter(curves.groupby("id", sort=False)))
    ends: list[float] = []
    for arm in look.arms:
        rows = runs[runs["arm"] == arm]
        mine = {
            status: [by_run[id] for id in rows["id"][rows["status"] == status] if id in by_run]
            for status in ("finished", "diverged")
        }
        line = look.line(arm)
        if mine["finished"]:
            tokens, low, mean, high = _band(mine["finished"])
            if look.label(arm) != "_":
                axes.fill_between(tokens, low, high, color=line["color"], alpha=0.15, linewidth=0)
            axes.plot(tokens, mean, label=look.label(arm), **line)
            ends += [*low[len(low) // 8 :], *high[len(high) // 8 :]]
        for run in mine["diverged"]:
            whole = run[run["loss"].notna()]
            if len(whole):
                axes.plot(whole["tokens"], whole["loss"], color=line["color"], linewidth=0.8, linestyle=":")
                axes.plot(whole["tokens"].iloc[-1:], whole["loss"].iloc[-1:], "x", color=line["color"])
    if ends:  # the first steep part is left to run off the top
        room = 0.06 * (max(ends) - min(ends)) or 0.1
        axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.set_xlim(left=0)
    axes.grid(axis="y")
    axes.xaxis.set_major_formatter(_amounts)
    axes.set_xlabel("tokens")
    axes.set_ylabel("training loss, nats / token")
    _legend(figure, axes)
    return figure


def _band(runs: Sequence["pd.DataFrame"]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Tokens, least, mean and greatest loss, at the points that all runs have (those of the shortest)."""
    import numpy as np

    points = min(len(run) for run in runs)
    losses = np.array([run["loss"].to_numpy()[:points] for run in runs], dtype=float)
    tokens = runs[0]["tokens"].to_numpy()[:points]
    return (
        tokens.tolist(),
        losses.min(axis=0).tolist(),
        losses.mean(axis=0).tolist(),
        losses.max(axis=0).tolist(),
    )


def _rates(look: _Look) -> "Figure | None":
    tuning = look.judged.tuning
    if tuning is None:
        return None
    frame = look.judged.frame
    metric = look.tuned
    rows = frame[(frame["role"] == "tuning") & (frame["status"] == "finished") & frame[metric].notna()]
    if rows.empty:
        return None
    figure = _figure(2.7)
    axes = figure.subplots()
    top = float(rows[metric].max())
    for choice in sorted(tuning.choices, key=lambda c: look.arms.index(c.arm) if c.arm in look.arms else 0):
        mine = rows[rows["arm"] == choice.arm].groupby("rate")[metric].agg(["mean", "min", "max"])
        line = look.line(choice.arm)
        axes.plot(mine.index, mine["mean"], marker="o", markersize=2.5, label=look.label(choice.arm), **line)
        if look.label(choice.arm) != "_":
            axes.vlines(mine.index, mine["min"], mine["max"], color=line["color"], linewidth=0.8, alpha=0.6)
        for rate in choice.rates(look.nested):
            height = _between(dict(zip(mine.index.tolist(), mine["mean"].tolist(), strict=True)), rate)
            axes.plot([rate], [height], "o", markersize=7, markerfacecolor="none", color=line["color"])
        axes.plot(choice.failed, [top] * len(choice.failed), "x", color=line["color"], markersize=4)
    _rate_axis(axes, sorted({float(rate) for rate in frame["rate"][frame["role"] == "tuning"]}))
    axes.set_ylabel(clip(metric))
    _legend(figure, axes)
    return figure


def _sensitivity(look: _Look) -> "Figure | None":
    """min(l, l0) against the rate: what the sensitivity is the mean height of, above its lowest point."""
    found = look.judged.sensitivities
    known = {arm.arm: arm for arm in found.arms if arm.sensitivity is not None} if found else {}
    if found is None or not known:
        return None
    figure = _figure(2.7)
    axes = figure.subplots()
    for name in [arm for arm in look.arms if arm in known]:
        arm = known[name]
        start, line = arm.start or 0.0, look.line(name)
        clipped = {
            rate: [start if loss is None else min(loss, start) for at, _, loss in arm.losses if at == rate]
            for rate in found.rates
        }
        heights = [sum(losses) / len(losses) for losses in clipped.values()]
        axes.plot(found.rates, heights, marker="o", markersize=2.5, label=look.label(name), **line)
        lost = sorted({rate for rate, _, loss in arm.losses if loss is None or loss > start})
        axes.axhline(start, color=line["color"], linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        axes.plot(lost, [start] * len(lost), "x", color=line["color"], markersize=5)
    _rate_axis(axes, found.rates)
    axes.set_ylabel(clip(found.metric))
    _legend(figure, axes)
    return figure


def _rate_axis(axes: "Axes", rates: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.grid(axis="y")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=40 if len(rates) > 6 else 0)
    axes.minorticks_off()
    axes.set_xlabel("rate")


def _between(means: Mapping[float, float], rate: float) -> float:
    """The height of the drawn line at a rate."""
    import numpy as np

    rates = sorted(means)
    return float(np.interp(np.log(rate), np.log(rates), [means[each] for each in rates]))


def _scale(results: Results, scale: Scale) -> "Figure | None":
    """Arms stand side by side at each size, and each line ends at its own arm's marks."""
    comparison = scale.sizes[0].judged.comparison
    if comparison is None or not any(trend.line for trend in scale.trends):
        return None
    look = _Look(results, scale.sizes[0].judged)
    parameters = [size.parameters for size in scale.sizes]
    figure = _figure(2.9)
    axes = figure.subplots()
    if comparison.margin:
        axes.axhspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.45, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    for n, trend in enumerate(scale.trends):
        line = look.line(trend.arm)
        apart = 1.03 ** (n - (len(scale.trends) - 1) / 2)
        for size in scale.sizes:
            gap, at = size.gap(trend.arm), size.parameters * apart
            if gap and gap.difference is not None and gap.low is not None and gap.high is not None:
                axes.plot([at], [gap.difference], "s", color=line["color"], markersize=3.5)
                axes.plot([at, at], [gap.low, gap.high], color=line["color"], linewidth=1)
        if trend.line is not None:
            dashes = {"linestyle": "--"} if trend.word == "undecided" else {}
            ends = [parameters[0] * apart, parameters[-1] * apart]
            axes.plot(ends, trend.line, label=look.label(trend.arm), **(line | dashes))
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(parameters, [f"{clip(size.name)}\n({amount(size.parameters)})" for size in scale.sizes])
    axes.set_xlabel("parameters without embeddings")
    axes.set_ylabel(f"gap to {clip(scale.baseline)}, {unit(comparison.metric)}")
    _legend(figure, axes)
    return figure


def _costs(look: _Look) -> "Figure | None":
    comparison = look.judged.comparison
    if comparison is None:
        return None
    table = arm_costs(look.judged)
    table = table[table["mean"].notna()]
    shown = [column for column in COSTS if table[column].nunique() >= 2]  # what all share says nothing
    if len(table) < 2 or not shown:
        return None
    rows = (len(shown) + 1) // 2
    figure = _figure(0.1 + 1.7 * rows)
    grid = figure.subplots(rows, min(2, len(shown)), sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, column in zip(grid.flat, shown, strict=False):
        label, more = COSTS[column]
        best = front(table[column], table["mean"], more, comparison.better == "higher")
        axes.plot(table.loc[best, column], table.loc[best, "mean"], color=SOFT, linewidth=0.8, zorder=1)
        for arm in table.index:
            line = look.line(arm)
            axes.plot(
                [table.loc[arm, column]], [table.loc[arm, "mean"]], "D" if arm == look.baseline else "o",
                color=line["color"], markersize=4.5, label=look.label(arm), zorder=line["zorder"] + 1,
            )  # fmt: skip
        axes.grid()
        axes.margins(0.12)
        axes.xaxis.set_major_formatter(_amounts)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel(clip(comparison.metric))
    _legend(figure, grid.flat[0])
    return figure


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Above the axes, in as many columns as the names allow; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = max(1, min(3, LETTERS // (max(map(len, labels)) + 6)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * -(-len(labels) // columns))
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.0, handlelength=1.6
    )


def _amounts(value: float, _: float = 0) -> str:
    """4500000 -> 4.5M, as matplotlib asks for the label of a tick."""
    return amount(value, digits=6)
