"""How figures look, and how one is saved.

Each is drawn once, one column of a paper wide, and saved as SVG and PDF. In the HTML page the same SVG stands
inline; its colours become variables of the style sheet there, so that it follows the page into the dark.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.amounts import amount
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.phrasing import clip
from ablate.study.report.summary import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 4.2  # inches
INK, SOFT, FAINT, PAPER = "#1c2430", "#5b6675", "#d5dae1", "#fefefe"
WORD_COLOURS = {
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
    **{colour: f"--{word}" for word, colour in WORD_COLOURS.items()},
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


def to_drawing(name: str, title: str, caption: str, figure: "Figure | None") -> Drawing | None:
    """Save a figure as SVG and PDF; None where there is none."""
    if figure is None:
        return None
    svg, pdf = saved(figure)
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


class ArmStyles:
    """The arms of a corpus in the order of figures, and the line of each: the same in all of them."""

    def __init__(self, judgement: StudyJudgement, judged: Judged) -> None:
        self.baseline, self.placebo = judgement.manifest.baseline, judgement.manifest.placebo
        self.arms = ranked(judged)
        others = [arm for arm in self.arms if arm not in (self.baseline, self.placebo)]
        self.coloured = others[:DRAWN]
        self.colours = {arm: ARMS[n % len(ARMS)] for n, arm in enumerate(self.coloured)}
        self.styles: dict[str, Any] = {arm: STYLES[n // len(ARMS)] for n, arm in enumerate(self.coloured)}

    def line(self, arm: str) -> dict[str, Any]:
        """How the line of an arm is drawn, as arguments of matplotlib's `plot`."""
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
        """The name of an arm in a legend; `_` for an arm that has no entry there."""
        if arm in (self.baseline, self.placebo) or arm in self.colours:
            return clip(arm)
        return "_"  # no entry in the legend


@contextmanager
def figure_settings() -> Iterator[None]:
    """Draw with the settings of a report, and with none of the caller's."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        yield


def new_figure(height: float) -> "Figure":
    """An empty figure one column wide and `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(COLUMN_WIDTH, height))


def saved(figure: "Figure") -> tuple[str, bytes]:
    """The figure as SVG and as PDF, without dates."""
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it is laid out already
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return svg.getvalue(), pdf.getvalue()


def legend(figure: "Figure", axes: "Axes") -> None:
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


def tick_amount(value: float, _: float = 0) -> str:
    """4500000 -> 4.5M, as matplotlib asks for the label of a tick."""
    return amount(value, digits=6)
