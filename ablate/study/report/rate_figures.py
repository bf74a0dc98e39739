"""Figures of tuning: the loss against the rate, and what a wrong rate costs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ablate.study.design.tune import Tune
from ablate.study.judge.corpus import Judged
from ablate.study.report.drawing import ArmStyles, legend, new_figure
from ablate.study.report.phrasing import clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_rates(judged: Judged, styles: ArmStyles, tune: Tune | None) -> "Figure | None":
    """The loss of the tuning runs by rate, with the rate that was chosen; None where none was tuned."""
    tuning = judged.tuning
    if tuning is None or tune is None:
        return None
    frame = judged.frame
    metric = tune.metric
    rows = frame[(frame["role"] == "tuning") & (frame["status"] == "finished") & frame[metric].notna()]
    if rows.empty:
        return None
    figure = new_figure(2.7)
    axes = figure.subplots()
    top = float(rows[metric].max())
    for choice in sorted(
        tuning.choices, key=lambda c: styles.arms.index(c.arm) if c.arm in styles.arms else 0
    ):
        by_rate = rows[rows["arm"] == choice.arm].groupby("rate")[metric].agg(["mean", "min", "max"])
        line = styles.line(choice.arm)
        axes.plot(
            by_rate.index, by_rate["mean"], marker="o", markersize=2.5, label=styles.label(choice.arm), **line
        )
        if styles.label(choice.arm) != "_":
            axes.vlines(
                by_rate.index, by_rate["min"], by_rate["max"], color=line["color"], linewidth=0.8, alpha=0.6
            )
        for rate in choice.rates(tune.nested):
            height = _between(dict(zip(by_rate.index.tolist(), by_rate["mean"].tolist(), strict=True)), rate)
            axes.plot([rate], [height], "o", markersize=7, markerfacecolor="none", color=line["color"])
        axes.plot(choice.failed, [top] * len(choice.failed), "x", color=line["color"], markersize=4)
    _rate_axis(axes, sorted({float(rate) for rate in frame["rate"][frame["role"] == "tuning"]}))
    axes.set_ylabel(clip(metric))
    legend(figure, axes)
    return figure


def draw_sensitivity(judged: Judged, styles: ArmStyles) -> "Figure | None":
    """min(l, l0) against the rate: what the sensitivity is the mean height of, above its lowest point."""
    sensitivities = judged.sensitivities
    known = (
        {arm.arm: arm for arm in sensitivities.arms if arm.sensitivity is not None} if sensitivities else {}
    )
    if sensitivities is None or not known:
        return None
    figure = new_figure(2.7)
    axes = figure.subplots()
    for name in [arm for arm in styles.arms if arm in known]:
        arm = known[name]
        start, line = arm.start or 0.0, styles.line(name)
        clipped = {
            rate: [start if loss is None else min(loss, start) for at, _, loss in arm.losses if at == rate]
            for rate in sensitivities.rates
        }
        heights = [sum(losses) / len(losses) for losses in clipped.values()]
        axes.plot(sensitivities.rates, heights, marker="o", markersize=2.5, label=styles.label(name), **line)
        lost = sorted({rate for rate, _, loss in arm.losses if loss is None or loss > start})
        axes.axhline(start, color=line["color"], linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        axes.plot(lost, [start] * len(lost), "x", color=line["color"], markersize=5)
    _rate_axis(axes, sensitivities.rates)
    axes.set_ylabel(clip(sensitivities.metric))
    legend(figure, axes)
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
