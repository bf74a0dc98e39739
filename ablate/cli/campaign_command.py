"""`ablate try` and `ablate campaign`: the words that a person types, and what is printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.campaign.page import PAGES, in_short, state_of, status_json, write_campaign_report
from ablate.campaign.rules import CampaignError
from ablate.cli.campaign_server import NUMBERS, OPTIONS, serve

TRY_USAGE = "usage: ablate try [FILE.py] KEY=VALUE... campaign=NAME [more=N] [slots=N] [runs=FOLDER] [--json]"


def try_words(words: Sequence[str]) -> tuple[Path, list[str], int, dict[str, Any]]:
    """The campaign's folder, the change, the pairs more, and options. Raises CampaignError."""
    change: list[str] = []
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OPTIONS:
            options[key] = value
        else:
            change.append(word)
    mistakes = [f"{key}: a whole number, not {options[key]!r}" for key in NUMBERS if _no_number(options, key)]
    if "campaign" not in options:
        mistakes.append(f"campaign: missing; {TRY_USAGE}")
    if not change:
        mistakes.append(f"there is no change; {TRY_USAGE}")
    if options.get("gpus", "true") not in ("true", "false"):
        mistakes.append(f"gpus: true or false, not {options['gpus']!r}")
    if mistakes:
        raise CampaignError(mistakes)
    folder = Path(options.pop("experiments", "experiments")) / options.pop("campaign")
    more = int(options.pop("more", 0))
    options |= {key: int(options[key]) for key in ("slots",) if key in options}
    options |= {"gpus": options["gpus"] == "true"} if "gpus" in options else {}
    return folder, change, more, options


def _no_number(options: dict[str, Any], key: str) -> bool:
    return key in options and not options[key].isdecimal()


def try_command(words: Sequence[str], as_json: bool) -> int:
    """Try a change and print the answer."""
    from ablate.cli.api import try_change

    folder, change, more, options = try_words(words)
    answer = try_change(folder, change, more=more, **options)
    print(json.dumps(answer.plain(), indent=1) if as_json else "\n".join(answer.lines))
    return 0


def campaign_command(action: str, folder: Path, as_json: bool) -> int:
    """Print how far a campaign is, write its report, or serve it."""
    if action == "serve":
        serve(folder)
        return 0
    state = write_campaign_report(folder) if action == "report" else state_of(folder)
    if as_json:
        print(json.dumps(status_json(folder), indent=1))
        return 0
    print(in_short(state))
    print(f"{state.left} tries are left; {state.runs} runs")
    for entry in state.tries.values():
        print(f"{entry.number:4d}  {entry.word:9s}  {' '.join(entry.change)}")
    if action == "report":
        print("\n".join(str(folder / page) for page in PAGES))
    return 0
