"""The root of all errors that ablate raises on purpose, and text that a terminal may be shown."""

from unicodedata import category


class AblateError(Exception):
    """What a user can cause and mend; the message says where it is and what to do.

    The classes below it are also ValueError, ConnectionError or RuntimeError where Python has the kind.
    """


def printable(text: str) -> str:
    """The text with control characters, and others that a terminal would obey or not show, as escapes.

    Line breaks, tabs and spaces of any script stay.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" or category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )
