"""Figures of training: the loss of every arm over tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablate.study.judge.corpus import Judged
from ablate.study.report.drawing import ArmStyles, legend, new_figure, tick_amount

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw_curves(curves: "pd.DataFrame", judged: Judged, styles: ArmStyles) -> "Figure | None":
    """The mean over seeds and its range, arm by arm; None where no run has a curve."""
    curves = curves[curves["id"].isin(set(judged.runs["id"]))]
    if curves.empty:
        return None
    figure = new_figure(2.7)
    axes = figure.subplots()
    runs = judged.runs[judged.runs["role"] == "test"]
    by_run = dict(iter(curves.groupby("id", sort=False)))
    ends: list[float] = []
    for arm in styles.arms:
        rows = runs[runs["arm"] == arm]
        mine = {
            status: [by_run[id] for id in rows["id"][rows["status"] == status] if id in by_run]
            for status in ("finished", "diverged")
        }
        line = styles.line(arm)
        if mine["finished"]:
            tokens, low, mean, high = _band(mine["finished"])
            if styles.label(arm) != "_":
                axes.fill_between(tokens, low, high, color=line["color"], alpha=0.15, linewidth=0)
            axes.plot(tokens, mean, label=styles.label(arm), **line)
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
    axes.xaxis.set_major_formatter(tick_amount)
    axes.set_xlabel("tokens")
    axes.set_ylabel("training loss, nats / token")
    legend(figure, axes)
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
