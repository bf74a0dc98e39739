"""What a terminal cannot show."""

import codecs
import sys
from io import TextIOWrapper

PLAIN = "ablate.plain"  # a name for Python's codecs
SIGNS = {"−": "-"}  # what would mean something else as a question mark


def replace_unprintable() -> None:
    """From here on, a character that stdout does not have is printed as another: mostly a question mark."""
    codecs.register_error(PLAIN, replacement)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=PLAIN)


def replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SIGNS.get(c, "?") for c in error.object[error.start : error.end]), error.end
