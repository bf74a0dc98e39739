"""`ablate status`: how far a study is, who does what, what failed and how long it takes still. torch is not
imported, so the answer comes at once, also while every core is at work."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.amounts import duration
from ablate.engine.roster import listed_studies, load_roster
from ablate.engine.status import StudyStatus, study_status
from ablate.engine.view import COLOURS

KEYS = {"experiment": "", "runs": "runs", "json": "false"}  # with their defaults
USAGE = "usage: ablate status [experiment=NAME] [runs=FOLDER] [json=true]"
MOST_FAILURES = 20  # lines of failures; json=true has all


def show_statuses(given: Sequence[str]) -> None:
    """Print the status of one study, or a line for each that has a list of runs. Raises ValueError for an
    unknown word, and for a study that has not been started."""
    if {"-h", "--help"} & set(given):
        print(f"{USAGE}\n\n{__doc__}")
        return
    words = _words(given)
    root = Path(words["runs"])
    names = [words["experiment"]] if words["experiment"] else listed_studies(root)
    if not names:
        raise ValueError(f"no study has been started with runs={root}")
    statuses = [_status_of(root, name) for name in names]
    if words["json"] == "true":
        json.dump([as_json(one) for one in statuses], sys.stdout, indent=1)
        print()
        return
    console = Console(highlight=False)
    for one in statuses:
        console.print(headline_of(one), soft_wrap=True)
        if words["experiment"]:
            show_status(console, one, root)


def _words(given: Sequence[str]) -> dict[str, str]:
    words = dict(KEYS)
    for word in given:
        key, equals, value = word.partition("=")
        if not equals:
            key, value = "experiment", word
        if key not in KEYS:
            raise ValueError(f"{key}: is no option of status; {USAGE}")
        words[key] = value
    if words["json"] not in ("true", "false"):
        raise ValueError(f"json: true or false, not {words['json']!r}")
    return words


def _status_of(root: Path, name: str) -> StudyStatus:
    try:
        return study_status(load_roster(root, name), root)
    except FileNotFoundError:
        known = ", ".join(listed_studies(root)) or "none"
        plan = f"python sweep.py experiment={name} plan=true"
        raise ValueError(
            f"{name} has not been started with runs={root}; started: {known}. `{plan}` says what it would be"
        ) from None


def headline_of(status: StudyStatus) -> Text:
    """`quickstart  12/24 done · 2 running · 1 failed · 3 min left`"""
    parts = [f"{len(status.done)}/{len(status.runs)} done"]
    for state in ("running", "waiting", "stale", "crashed", "interrupted"):
        found = status.of(state)
        parts += [f"{len(found)} {state}"] if found else []
    lost = status.of("diverged", "out_of_memory", "refused")
    parts += [f"{len(lost)} of the done without a loss"] if lost else []
    if len(status.done) < len(status.runs) and status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    if not status.roster.complete:
        parts.append("more runs follow from the tuning")
    if len(status.done) < len(status.runs) and not status.of("running"):
        parts.append("nobody is at work")
    return Text.assemble((status.roster.study, "bold"), "  ", " · ".join(parts))


def show_status(console: Console, status: StudyStatus, root: Path) -> None:
    """Print the table of arms, the runs under way and those that failed."""
    arms = Table(box=None, pad_edge=False, title_justify="left")
    for column in ("arm", "finished", "running", "failed", "to do"):
        arms.add_column(column, overflow="fold", justify="left" if column == "arm" else "right")
    for arm in dict.fromkeys(run.run.arm for run in status.runs):
        states = Counter(run.state for run in status.runs if run.run.arm == arm)
        failed = sum(1 for run in status.failed if run.run.arm == arm)
        todo = sum(states[state] for state in ("waiting", "stale", "crashed", "interrupted"))
        cells = (arm, *(str(n) if n else "" for n in (states["finished"], states["running"], failed, todo)))
        arms.add_row(*(Text(cell) for cell in cells))
    console.print(arms)
    for run in status.of("running"):
        share = f"step {run.step}/{run.run.steps}" if run.step else "no step yet"
        time = "" if run.seconds is None else f", {duration(run.seconds)}"
        console.print(Text(f"running  {run.run.label}  {share}{time}  by {run.where}"), soft_wrap=True)
    for run in status.failed[:MOST_FAILURES]:
        log = f"  ({run.log})" if run.log else ""
        line = Text.assemble(
            (run.state, COLOURS.get(run.state, "red")), f"  {run.run.label}  {run.reason}{log}"
        )
        console.print(line, soft_wrap=True)
    if len(status.failed) > MOST_FAILURES:
        console.print(f"and {len(status.failed) - MOST_FAILURES} more failed; json=true lists all")
    for reason in status.broken.values():
        console.print(Text(f"! {reason}; it counts as missing", style="yellow"), soft_wrap=True)


def as_json(status: StudyStatus) -> dict[str, Any]:
    """The status as plain JSON: one object for each run."""
    return {
        "study": status.roster.study,
        "complete": status.roster.complete,
        "engine": status.roster.engine,
        "seconds_left": status.seconds_left,
        "runs": [
            {
                **run.run.model_dump(),
                "state": run.state,
                "reason": run.reason,
                "seconds": run.seconds,
                "step": run.step,
                "where": run.where,
            }
            for run in status.runs
        ],
    }
