"""A hook of MkDocs: links that leave docs/ become the name of the file, which the site does not hold."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text, with each link out of docs/ replaced by its words and the path in the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(found: re.Match[str]) -> str:
        words, target = found.group(1), found.group(2)
        if "://" in target:
            return found.group(0)
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/") and path.endswith(".md"):
            return found.group(0)
        name = path.removeprefix("docs/") if path.startswith("docs/") else path
        says_the_path = words.strip("`") in (path, name, posixpath.basename(path))
        return f"`{path}`" if says_the_path else f"{words} (`{path}`)"

    return LINK.sub(inside, markdown)
