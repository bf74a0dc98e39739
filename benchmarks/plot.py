"""Ratios as a figure: for each row the median of its rounds and their range, beside the line of 1."""

import io
import statistics
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from ablate.study.report.drawing import ARMS, FAINT, INK, SETTINGS, SOFT

HEIGHT = 0.24  # inches of a row


def ratios(names: Sequence[str], rounds: Sequence[Sequence[float]], label: str) -> str:
    """The SVG. Above 1 stands to the right of the line."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5.4, 0.6 + HEIGHT * len(names)))
        axes = figure.subplots()
        axes.axvline(1.0, color=SOFT, linewidth=0.8)
        for row, times in enumerate(rounds):
            middle = statistics.median(times)
            axes.plot([min(times), max(times)], [row, row], color=ARMS[0], linewidth=1.4, zorder=2)
            axes.plot(middle, row, "o", color=ARMS[0], markersize=4.5, zorder=3)
            axes.annotate(
                f"{middle:.2f}", (max(times), row), (5, 0), textcoords="offset points", va="center", color=INK
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=min(0.9, *map(min, rounds)) - 0.02)
        axes.margins(x=0.12)
        axes.grid(axis="x", color=FAINT)
        axes.set_xlabel(label)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()
