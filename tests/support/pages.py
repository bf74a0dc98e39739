"""Fenced blocks of the Markdown pages: what they hold, and which commands they show.

A block says its language. `bash` holds commands, `console` commands after `$ ` with what they print, `yaml`
and `python` what their names say, `text` what is not to be run. A block of which the first line is a comment
with a path is that file, whole.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted(page for page in (ROOT / "docs/tutorials").glob("*.md") if page.stem != "index")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("bash", "console", "yaml", "python", "text")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w./-]+\.\w+)\n")


@dataclass(frozen=True)
class Fenced:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The path that the first line names; None where the block is no file."""
        named = NAMED.match(self.text)
        return named.group(1) if named else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def output(self) -> list[str]:
        """The lines that a `console` block says its command prints."""
        return [line for line in self.text.splitlines() if not line.startswith("$ ")]


def blocks(page: Path) -> list[Fenced]:
    text = page.read_text()
    return [
        Fenced(page, text[: found.start()].count("\n") + 1, found.group(1), found.group(2))
        for found in FENCE.finditer(text)
    ]


def as_ablate(words: list[str]) -> list[str] | None:
    """The arguments of `ablate` in any of its spellings; None for another command."""
    if words[:1] == ["ablate"]:
        return words[1:]
    if words[:3] == ["python", "-m", "ablate"]:
        return words[3:]
    if words[:1] == ["python"] and words[1:2] in (["train.py"], ["sweep.py"]):
        return [words[1].removesuffix(".py"), *words[2:]]
    return None
