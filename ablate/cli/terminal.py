"""What a terminal cannot show, or must not obey."""

import codecs
import logging
import sys
from collections.abc import Iterable
from io import TextIOWrapper

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ablate.errors import printable

PLAIN = "ablate.plain"  # a name for Python's codecs
SIGNS = {"−": "-"}  # what would mean something else as a question mark


class PlainConsole(Console):
    """A console on which text from a file, a name or a message cannot act: control characters in it are
    shown as escapes. Colours and moves of the cursor are rich's own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def replace_unprintable() -> None:
    """From here on, a character that stdout does not have is printed as another: mostly a question mark.
    What is logged holds no control characters."""
    codecs.register_error(PLAIN, replacement)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=PLAIN)
    logging.setLogRecordFactory(_plain_record)


def _plain_record(*given: object, **named: object) -> logging.LogRecord:
    record = logging.LogRecord(*given, **named)  # type: ignore[arg-type]
    if record.name.partition(".")[0] == "ablate":
        record.msg, record.args = printable(record.getMessage()), ()
    return record


def replacement(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: writes a sign that the terminal lacks by a plain one."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SIGNS.get(c, "?") for c in error.object[error.start : error.end]), error.end
