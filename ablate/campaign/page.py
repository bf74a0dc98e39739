"""The report of a campaign, made from its rules and its journal alone: campaign.md and campaign.html."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate.amounts import number, short
from ablate.campaign.journal import BaselineEntry, CampaignState, Journal, TryEntry
from ablate.campaign.referee import threshold_now
from ablate.campaign.rules import CampaignError, load_campaign
from ablate.record import atomic
from ablate.study.report.drawing import (
    INK,
    SOFT,
    WORD_COLOURS,
    Drawing,
    figure_settings,
    new_figure,
    to_drawing,
)
from ablate.study.report.markup import TEMPLATES, html_environment, markdown_environment
from ablate.study.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = ("campaign.md", "campaign.html")
POINT_COLOURS = {"keep": WORD_COLOURS["better"], "discard": SOFT, "undecided": WORD_COLOURS["undecided"]}
METRIC_PLACES = 4  # decimals of a metric


def write_campaign_report(folder: Path) -> CampaignState:
    """Rebuild the report in `folder`; returns the state that it shows. Raises CampaignError where nothing was
    tried yet."""
    state = state_of(folder)
    context = campaign_context(folder.name, state)
    for name, environment in zip(PAGES, (markdown_environment(), html_environment()), strict=True):
        text = environment.get_template(f"{name}.jinja").render(context)
        with atomic(folder / name) as file:
            file.write(text.encode())
    return state


def state_of(folder: Path) -> CampaignState:
    """The state of a campaign. Raises CampaignError where nothing was tried yet."""
    state = Journal(folder).read(load_campaign(folder))
    if state is None:
        raise CampaignError([f"{folder}: nothing was tried yet: ablate try CHANGE campaign={folder.name}"])
    return state


def status_json(folder: Path) -> dict[str, Any]:
    """A campaign as plain JSON."""
    state = state_of(folder)
    return {
        "campaign": folder.name,
        "tries": [entry.model_dump(mode="json") for entry in state.tries.values()],
        "baselines": [entry.model_dump(mode="json") for entry in state.baselines],
        "tries_left": state.left,
        "alpha_left": state.rules.alpha * max(0, state.left) / state.rules.tries,
        "runs": state.runs,
    }


def campaign_context(name: str, state: CampaignState) -> dict[str, Any]:
    """The context of both templates."""
    drawing = draw_path(state)
    return {
        "name": name,
        "question": state.rules.question,
        "answer": in_short(state),
        "facts": list(campaign_facts(state)),
        "tries": try_table(state),
        "path": path_table(state),
        "drawings": [drawing] if drawing is not None else [],
        "methods": campaign_methods(state),
        "overrides": " ".join(state.baseline.overrides),
        "notes": state.rules.notes,
        "style": (TEMPLATES / "style.css").read_text(),
    }


def in_short(state: CampaignState) -> str:
    """How many changes were kept, and what that came to."""
    count = {word: sum(t.word == word for t in state.tries.values()) for word in ("keep", "discard")}
    open_tries = len(state.tries) - sum(count.values())
    line = f"{len(state.tries)} changes were tried: {count['keep']} kept, {count['discard']} discarded"
    line += f", {open_tries} undecided. " if open_tries else ". "
    first, last = mean_of(state.baselines[0]), mean_of(state.baseline)
    if count["keep"] and first is not None and last is not None:
        line += (
            f"On seeds that chose nothing the baseline went from {number(first, METRIC_PLACES)} to "
            f"{number(last, METRIC_PLACES)} ({state.rules.metric})."
        )
    return line.strip()


def campaign_facts(state: CampaignState) -> Iterator[tuple[str, str]]:
    """What was declared, spent and left."""
    rules, spent = state.rules, len(state.tries)
    yield "metric", f"{rules.metric} ({rules.better} is better)"
    yield "margin", f"{rules.margin:g}"
    yield "tries", f"{spent} of {rules.tries} planned"
    yield "alpha", f"{rules.alpha:g}, of which {short(rules.alpha * spent / rules.tries)} is spent"
    yield "wealth left", short(rules.alpha * max(0, state.left) / rules.tries)
    yield "next e-value needed", short(float(np.exp(threshold_now(state))))
    yield "runs", f"{state.runs} ({sum(len(b.values) for b in state.baselines)} of baselines)"
    yield "pairs a try", f"{sum(len(t.values) for t in state.tries.values()) / max(1, spent):.1f} on average"


def try_table(state: CampaignState) -> Table:
    """Every try with its decision."""
    return Table(
        "Tries",
        ("try", "baseline", "change", "decision", "pairs", "difference", "e-value", "needed", "why"),
        tuple(_try_row(entry) for entry in state.tries.values()),
        "Differences are change − baseline over the pairs. That of a kept change is too large on average, "
        "since it was kept for being large.",
        (0, 1, 4, 5, 6, 7),
    )


def _try_row(entry: TryEntry) -> tuple[str, ...]:
    return (
        str(entry.number),
        str(entry.baseline),
        " ".join(entry.change),
        entry.word,
        str(len(entry.values)),
        number(entry.difference, METRIC_PLACES, signed=True),
        short(float(np.exp(min(entry.log_e, 700.0)))),
        short(float(np.exp(entry.log_threshold))),
        entry.reason.split(" (e-value")[0],
    )


def path_table(state: CampaignState) -> Table:
    """The baselines one after another, each on seeds of its own."""
    kept = {t.baseline + 1: t for t in state.tries.values() if t.word == "keep"}
    rows = []
    for entry in state.baselines:
        by = kept.get(entry.baseline)
        values = list(entry.values.values())
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(
            (
                str(entry.baseline),
                "the campaign's base" if by is None else " ".join(by.change),
                "" if by is None else str(by.number),
                number(mean_of(entry), METRIC_PLACES),
                number(sd, METRIC_PLACES),
                str(len(values)),
            )
        )
    return Table(
        "The baseline's path", ("baseline", "brought by", "try", "mean", "sd", "seeds"), tuple(rows), "",
        (0, 2, 3, 4, 5),
    )  # fmt: skip


def mean_of(entry: BaselineEntry) -> float | None:
    """The mean of a baseline over its seeds; None where it was not run."""
    return float(np.mean(list(entry.values.values()))) if entry.values else None


def draw_path(state: CampaignState) -> Drawing | None:
    """The mean of every try by its number, coloured by the decision, and the baseline's path as a line."""
    with figure_settings():
        return to_drawing(
            "campaign-path",
            "The baseline's path",
            f"Each point is the mean {state.rules.metric} of a change over its pairs; the line is the "
            "baseline of its time, on seeds that chose nothing.",
            _path_figure(state),
        )


def _path_figure(state: CampaignState) -> "Figure | None":
    tries = [entry for entry in state.tries.values() if entry.values]
    if not tries:
        return None
    figure = new_figure(2.6)
    axes = figure.subplots()
    for word, colour in POINT_COLOURS.items():
        mine = [entry for entry in tries if entry.word == word]
        means = [float(np.mean(list(entry.values.values()))) for entry in mine]
        axes.plot([e.number for e in mine], means, "o", markersize=3.5, color=colour, label=word)
    starts = [1, *(t.number + 1 for t in state.tries.values() if t.word == "keep")]
    ends = [*(start - 1 for start in starts[1:]), max(state.tries)]
    for entry, start, end in zip(state.baselines, starts, ends, strict=True):
        level = mean_of(entry)
        if level is not None:
            axes.plot([start - 0.4, max(start, end) + 0.4], [level, level], "-", color=INK, linewidth=1.3)
    axes.set_xlabel("try")
    axes.set_ylabel(state.rules.metric)
    axes.legend()
    return figure


def campaign_methods(state: CampaignState) -> str:
    """How a try was judged, in a paragraph that a paper can quote."""
    rules = state.rules
    noise = (
        "The noise is that of all tries so far, by the additive model of arms and seeds"
        if rules.noise == "pooled"
        else "The noise is that of each try alone"
    )
    bound = f"{rules.alpha:.0%}"
    return (
        f"Each change was compared with the baseline of its time on {rules.metric}, paired by seed. "
        f"The evidence is the e-value of a t-test that may be looked at after every pair. {noise}. "
        f"A change is kept where the e-value reaches tries / (alpha (1 + keeps)), with {rules.tries} tries "
        f"planned and alpha = {rules.alpha:g} (e-LOND; Xu and Ramdas 2024). So of the kept changes at most "
        f"{bound} are expected to be no gains, and a campaign in which nothing is a gain keeps anything with "
        f"a chance of at most {bound}. A change is discarded where a gain of {rules.margin:g} is "
        f"{1 / rules.miss:g} times less likely than none (Wald 1945). After a keep the new baseline was "
        "measured again, on new seeds. Runs were trained from a text without its held-out split, which the "
        "referee alone has read."
    )
