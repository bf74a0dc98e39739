"""A study at Weights & Biases: a Report with the answer, and a Workspace that compares the runs by arm.

Both are made from the study's results files. What the Report says is written beside them too, so that nothing
is lost where there is no key and no server; and no fault of either costs the study anything.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from ablate.amounts import number
from ablate.record import atomic
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.answer import answer, banners
from ablate.study.report.claim_tables import claim_table
from ablate.study.report.markup import fenced, markdown
from ablate.study.report.phrasing import decimals
from ablate.study.report.summary import ranked
from ablate.study.report.table import Table
from ablate.study.report.tables import verdict_table
from ablate.study.report.wandb_panels import plots, title, workspace
from ablate.study.results import Results

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

DASHBOARD = "dashboard"
ADDRESSES = "published.json"  # in that folder: what was made before, to be replaced rather than doubled
PATIENCE = 60.0  # seconds that the server has to take both
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class PublishedStudy:
    """The addresses of what was made, None for what was not; the text beside; and what to tell the user."""

    report: str | None
    workspace: str | None
    text: Path
    said: tuple[str, ...]


def publish(
    folder: Path, judgement: StudyJudgement, project: str, entity: str | None, store: Path = Path("runs")
) -> PublishedStudy:
    """Publish the judgement on the experiment in `folder` into a W&B project.

    `entity` is a user or a team; None is the key's own. `store` is where runs are kept: those whose mirror is
    on disk only are counted. PublishedStudy again, the same Report and Workspace change.

    Raises nothing: without a key, or where the server fails or is slow, `said` tells why and what to do.
    """
    results = judgement.results
    place = folder / DASHBOARD
    place.mkdir(parents=True, exist_ok=True)
    text = place / "report.md"
    with atomic(text) as f:
        f.write(("\n\n".join([f"# {title(results.manifest)}", *paragraphs(judgement)]) + "\n").encode())
    addresses, trouble = patiently(lambda: save_dashboard(judgement, place, project, entity))
    again = ["python", "sweep.py", f"experiment={results.manifest.name}", "report=true", "wandb.report=true"]
    again += [f"wandb.project={project}", *([f"wandb.entity={entity}"] if entity else [])]
    lines = [f"W&B {what}: {address}" for what, address in addresses.items()]
    waiting = on_disk(results, store)
    if waiting:
        lines.append(
            f"{waiting} runs are mirrored on disk only; to upload: wandb sync {store}/*/wandb/offline-run-*"
        )
    if trouble:
        lines.append(f"W&B: {trouble}. What the report says is in {text}; to publish: {shlex.join(again)}")
    return PublishedStudy(addresses.get("report"), addresses.get("workspace"), text, tuple(lines))


def patiently(act: Callable[[], dict[str, str]]) -> tuple[dict[str, str], str]:
    """(what the act returned, what went wrong): it is left alone once it takes longer than the patience."""
    results: dict[str, str] = {}
    trouble: list[str] = []

    def attempt() -> None:
        try:
            results.update(act())
        except Exception as error:  # none of a dashboard's faults may cost a study
            trouble.append(next(iter(str(error).splitlines()), "") or type(error).__name__)

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        trouble.append(f"no answer in {PATIENCE:g} s")
    return dict(results), "; ".join(trouble).rstrip(".")


def save_dashboard(
    judgement: StudyJudgement, place: Path, project: str, entity: str | None
) -> dict[str, str]:
    """Report and workspace to the server; their addresses. Raises what the server's client raises."""
    import wandb

    if re.search(r"""['"\\\\]""", judgement.manifest.name):
        raise ValueError(
            "W&B cannot select runs by a study's name with quotes or backslashes: rename the folder"
        )
    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ConnectionError("there is no key (`wandb login`), or WANDB_MODE forbids to send")
    entity = entity or wandb.Api().default_entity
    if entity is None:
        raise ConnectionError("the key has no entity of its own: give wandb.entity")
    file = place / ADDRESSES
    known = json.loads(file.read_text()) if file.is_file() else {}
    if (known.get("entity"), known.get("project")) != (entity, project):
        known = {}
    page = wandb_report(judgement, project, entity)
    page.id = known.get("report", "")
    view = workspace(judgement.results, project, entity)
    view._internal_name, view._internal_id = known.get("view_name", ""), known.get("view_id", "")
    page.save()
    view.save()
    addresses = {"entity": entity, "project": project, "report": page.id}
    addresses |= {"view_name": view._internal_name, "view_id": view._internal_id}
    with atomic(file) as f:
        f.write((json.dumps(addresses, indent=1) + "\n").encode())
    return {"report": page.url, "workspace": view.url}


def on_disk(results: Results, store: Path) -> int:
    """The runs of the study that W&B has not seen."""
    return sum(
        any(
            not (folder / f"run-{id}.wandb.synced").exists()
            for folder in (store / id / "wandb").glob("offline-run-*")
        )
        for id in dict.fromkeys(results.runs["id"])
    )


# -------------------------------------------------------------------------------------- report


def wandb_report(judgement: StudyJudgement, project: str, entity: str) -> "Report":
    """The Report, not saved yet."""
    import wandb_workspaces.reports.v2 as wr

    first, *rest = paragraphs(judgement)
    return wr.Report(
        entity=entity,
        project=project,
        title=title(judgement.manifest),
        description=" ".join(judgement.study.question.split()),
        blocks=[
            wr.MarkdownBlock(first),
            plots(judgement.results),
            *(wr.MarkdownBlock(text) for text in rest),
        ],
        width="fluid",
    )


def paragraphs(judgement: StudyJudgement) -> list[str]:
    """What the Report says, as Markdown in which no text of a configuration is trusted: the answer and the
    verdicts first, then paired differences, claims and the command."""
    opening = [f"**Question.** {markdown(judgement.study.question)}"]
    opening += [f"**Answer.** {markdown(answer(judgement))}"]
    opening += [f"> **Note.** {markdown(banner)}" for banner in banners(judgement)]
    several = judgement.several
    opening += [
        as_markdown(verdict_table(corpus), "Verdicts", corpus.corpus * several)
        for corpus in judgement.corpora
    ]
    rest = [
        as_markdown(paired_differences(corpus), "Paired differences", corpus.corpus * several)
        for corpus in judgement.corpora
    ]
    claims = claim_table(judgement.claimed)
    if claims is not None:
        rest.append(linked(as_markdown(claims, "Claims")))
    command = shlex.join(["python", "sweep.py", f"experiment={judgement.manifest.name}"])
    rest.append(f"All of it is in the experiment's folder, made by\n\n{fenced(command)}")
    return ["\n\n".join(part for part in opening if part), *(part for part in rest if part)]


def paired_differences(judged: Judged) -> Table | None:
    """The differences that a verdict rests on: arm minus baseline at each seed that both have finished."""
    comparison = judged.comparison
    if comparison is None:
        return None
    base = comparison.outcomes(comparison.baseline).values
    arms = [arm for arm in ranked(judged) if arm != comparison.baseline]
    places = decimals(comparison)
    rows = []
    for seed in comparison.seeds:
        cells = []
        for arm in arms:
            values = comparison.outcomes(arm).values
            both = seed in values and seed in base
            cells.append(number(values[seed] - base[seed], places, True) if both else "")
        if any(cells):
            rows.append((str(seed), *cells))
    if not rows:
        return None
    note = (
        f"{comparison.metric}, arm minus {comparison.baseline}. Blank where a run of the pair did not finish."
    )
    columns = ("seed", *arms)
    return Table("Paired differences", columns, tuple(rows), note, tuple(range(1, len(columns))))


def as_markdown(table: Table | None, heading: str, where: str = "") -> str:
    """As Markdown; nothing where there is none."""
    if table is None:
        return ""
    heading = f"{heading} on {where}" if where else heading
    rule = ["---:" if n in table.numeric else "---" for n in range(len(table.columns))]
    lines = [[markdown(cell) for cell in row] for row in (table.columns, *table.rows)]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))
    return "\n\n".join([f"## {markdown(heading)}", grid, markdown(table.note)]).strip()


def linked(text: str) -> str:
    """Papers that are named by their number can be followed."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
