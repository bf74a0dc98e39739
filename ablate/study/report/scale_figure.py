"""The figure of gaps against size."""

from typing import TYPE_CHECKING

from ablate.amounts import amount
from ablate.study.judge.scale import Scale
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.drawing import FAINT, SOFT, ArmStyles, legend, new_figure
from ablate.study.report.phrasing import clip, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_gaps_by_size(judgement: StudyJudgement, scale: Scale) -> "Figure | None":
    """Arms stand side by side at each size, and each line ends at its own arm's marks."""
    comparison = scale.sizes[0].judged.comparison
    if comparison is None or not any(trend.line for trend in scale.trends):
        return None
    styles = ArmStyles(judgement, scale.sizes[0].judged)
    parameters = [size.parameters for size in scale.sizes]
    figure = new_figure(2.9)
    axes = figure.subplots()
    if comparison.margin:
        axes.axhspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.45, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    for n, trend in enumerate(scale.trends):
        line = styles.line(trend.arm)
        apart = 1.03 ** (n - (len(scale.trends) - 1) / 2)
        for size in scale.sizes:
            gap, at = size.gap(trend.arm), size.parameters * apart
            if gap and gap.difference is not None and gap.low is not None and gap.high is not None:
                axes.plot([at], [gap.difference], "s", color=line["color"], markersize=3.5)
                axes.plot([at, at], [gap.low, gap.high], color=line["color"], linewidth=1)
        if trend.line is not None:
            dashes = {"linestyle": "--"} if trend.word == "undecided" else {}
            ends = [parameters[0] * apart, parameters[-1] * apart]
            axes.plot(ends, trend.line, label=styles.label(trend.arm), **(line | dashes))
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(parameters, [f"{clip(size.name)}\n({amount(size.parameters)})" for size in scale.sizes])
    axes.set_xlabel("parameters without embeddings")
    axes.set_ylabel(f"gap to {clip(scale.baseline)}, {unit(comparison.metric)}")
    legend(figure, axes)
    return figure
