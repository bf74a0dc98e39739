"""Templates of a report. No text from a configuration is trusted: all of it is escaped, unless made here."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.study.report.drawing import inline
from ablate.study.report.phrasing import LINE, pieces

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
MARKDOWN = re.compile(r"([\\`*_\[\]|$~])")
BLOCK_STARTS = re.compile(
    r"^(?=[-+#=]+(?:\s|$))|^\d+(?=[.)](?:\s|$))"
)  # what begins a list, a heading, a rule


def html_environment() -> "Environment":
    """Every expression is escaped, but for the SVG of our own figures."""
    from markupsafe import Markup

    environment = _environment()
    environment.filters["svg"] = lambda drawing: Markup(inline(drawing))
    environment.filters["style"] = lambda css: Markup(css)
    environment.filters["pieces"] = lambda text: Markup("").join(map(_piece, pieces(text)))
    return environment


def _piece(text: str) -> "Markup":
    """A piece of a name that is not broken across lines, unless it is too long for one."""
    from markupsafe import Markup, escape

    return Markup('<span class="piece">{}</span>').format(text) if len(text) <= LINE else escape(text)


def markdown_environment() -> "Environment":
    """Every expression is escaped for Markdown and for the HTML that Markdown lets through."""
    from markupsafe import Markup

    environment = _environment()
    environment.finalize = lambda value: value if isinstance(value, Markup) else Markup(markdown(str(value)))
    environment.filters["fenced"] = lambda text: Markup(fenced(text))
    return environment


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markdown(text: str) -> str:
    """The text so that Markdown shows it as it is, on one line."""
    text = MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    text = BLOCK_STARTS.sub(r"\g<0>\\", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str) -> str:
    """A block of code; the fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
