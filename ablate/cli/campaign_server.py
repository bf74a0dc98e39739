"""An MCP server with the referee's three calls, for one campaign: `ablate campaign serve NAME`.

It needs the extra `mcp`. Each try is a process of its own, so that two versions of a part never meet in one.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ablate.campaign.page import status_json
from ablate.campaign.rules import CampaignError, load_campaign

_PLACES = ("experiments", "runs", "cache")  # options of a try that are folders
NUMBERS = ("more", "slots")
OPTIONS = ("campaign", "gpus", *_PLACES, *NUMBERS)


def make_server(folder: Path) -> Any:
    """The server of the campaign in `folder`, an `MCPServer` that is not running. Raises CampaignError where
    the library is missing, or the campaign is wrong."""
    if find_spec("mcp") is None:
        raise CampaignError(["campaign serve: needs mcp: pip install -e '.[mcp]' (in the repository)"])
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    rules = load_campaign(folder)
    server: Any = MCPServer(f"ablate campaign {folder.name}", instructions=rules.question)

    def try_change(change: list[str], more: int = 0) -> dict[str, Any]:
        """Ask the referee about a change of the present baseline: a list of overrides such as
        model/norm=layernorm, and files with parts of one's own. The answer is keep, discard or undecided;
        `more` gives a try that was undecided so many runs more."""
        return asked(
            folder, "try", [*checked_change(change), f"campaign={folder.name}", f"more={max(0, more)}"]
        )

    def campaign_status() -> dict[str, Any]:
        """Every try with its decision, the baselines so far, and how many tries are left."""
        return status_json(folder)

    def campaign_report() -> dict[str, Any]:
        """Write campaign.md and campaign.html into the campaign's folder; returns the Markdown."""
        asked(folder, "campaign", ["report", folder.name])
        return {"campaign.md": (folder / "campaign.md").read_text()}

    for tool in (try_change, campaign_status, campaign_report):
        server.add_tool(heard(tool, ToolError))
    return server


def heard(tool: Callable[..., Any], error_of_tool: type[Exception]) -> Callable[..., Any]:
    """The tool, whose refusals reach the client, which is told nothing of errors but the library's own."""

    @wraps(tool)
    def told(*given: Any, **named: Any) -> Any:
        try:
            return tool(*given, **named)
        except CampaignError as error:
            raise error_of_tool(str(error)) from error

    return told


def checked_change(change: Sequence[str]) -> list[str]:
    """The change, if all of it is one. Raises CampaignError for options of the command among it."""
    wrong = [word for word in change if word.startswith("-") or word.partition("=")[0] in OPTIONS]
    if wrong:
        raise CampaignError([f"{word}: is no part of a change" for word in wrong])
    return list(change)


def asked(folder: Path, command: str, words: Sequence[str]) -> dict[str, Any]:
    """The answer of a command in another process. Raises CampaignError with what it says on stderr."""
    place = f"experiments={folder.parent}" if command == "try" else f"--experiments={folder.parent}"
    call = [sys.executable, "-m", "ablate", command, *words, place, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise CampaignError([done.stderr.strip() or f"{command} ended with {done.returncode}"])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def serve(folder: Path) -> None:
    """Answer over stdin and stdout until they are closed."""
    make_server(folder).run()
