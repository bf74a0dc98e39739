"""Figures of training: the loss of every arm over tokens, and its gap to the baseline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablate.study.judge.corpus import Judged
from ablate.study.report.drawing import FAINT, SOFT, ArmStyles, legend, new_figure, tick_amount

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
        by_status = {
            status: [by_run[id] for id in rows["id"][rows["status"] == status] if id in by_run]
            for status in ("finished", "diverged")
        }
        line = styles.line(arm)
        if by_status["finished"]:
            tokens, low, mean, high = _band(by_status["finished"])
            if styles.label(arm) != "_":
                axes.fill_between(tokens, low, high, color=line["color"], alpha=0.15, linewidth=0)
            axes.plot(tokens, mean, label=styles.label(arm), **line)
            ends += [*low[len(low) // 8 :], *high[len(high) // 8 :]]
        for run in by_status["diverged"]:
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


def draw_gaps(curves: "pd.DataFrame", judged: Judged, styles: ArmStyles) -> "Figure | None":
    """The gap of each arm's training loss to the baseline's at the same seed and the same tokens; None where
    no seed has both curves."""
    runs = judged.runs[(judged.runs["role"] == "test") & (judged.runs["status"] == "finished")]
    by_run = dict(iter(curves.groupby("id", sort=False)))
    by_arm = {
        arm: {seed: by_run[id] for seed, id in zip(rows["seed"], rows["id"], strict=True) if id in by_run}
        for arm, rows in runs.groupby("arm")
    }
    base = by_arm.get(styles.baseline, {})
    gaps = {}
    for arm in styles.arms:
        own = by_arm.get(arm, {})
        pairs = [_gap(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())]
        if arm != styles.baseline and pairs:
            gaps[arm] = _band(pairs)
    if not gaps:
        return None
    figure = new_figure(2.7)
    axes = figure.subplots()
    margin = judged.comparison.margin if judged.comparison else None
    if margin:
        axes.axhspan(-margin, margin, color=FAINT, alpha=0.45, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    ends: list[float] = []
    for arm, (tokens, low, mean, high) in gaps.items():
        line = styles.line(arm)
        if styles.label(arm) != "_":
            axes.fill_between(tokens, low, high, color=line["color"], alpha=0.15, linewidth=0)
        axes.plot(tokens, mean, label=styles.label(arm), **line)
        ends += mean[len(mean) // 8 :]
    room = 0.15 * (max(ends) - min([*ends, 0.0])) or 0.1  # the first steps are left to run off
    axes.set_ylim(min([*ends, 0.0]) - room, max([*ends, 0.0]) + room)
    axes.set_xlim(left=0)
    axes.grid(axis="y")
    axes.xaxis.set_major_formatter(tick_amount)
    axes.set_xlabel("tokens")
    axes.set_ylabel("gap, nats / token")
    legend(figure, axes)
    return figure


def _gap(run: "pd.DataFrame", base: "pd.DataFrame") -> "pd.DataFrame":
    """The loss of a run less that of another, at the points that both have."""
    points = min(len(run), len(base))
    losses = run["loss"].to_numpy()[:points] - base["loss"].to_numpy()[:points]
    return run.iloc[:points].assign(loss=losses)


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
