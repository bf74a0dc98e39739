"""The relative links of all Markdown pages lead to files, and their anchors to headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "runs", "cache", "build", "wandb"}
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not any(part in SKIPPED or part.endswith("_cache") for part in page.relative_to(ROOT).parts)
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


CODE = re.compile(r"`(?:python )?((?:ablate|tests|benchmarks|findings|hydra_plugins)/[\w./-]+\w)[` ]")
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere; web addresses are not asked."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = []
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        named = anchor and target.suffix == ".md" and target.is_file()
        if not target.exists() or (named and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_wrong_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[here](#a-title) [gone](none.md) [lost](#nothing) [web](https://example.org)\n"
    )
    assert broken(page) == ["none.md", "#nothing"]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    assert [path for path in CODE.findall(page.read_text()) if not (ROOT / path).exists()] == []
