"""The root of all errors that ablate raises on purpose, and how errors are shown to a person."""

import errno
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


IN_WORDS = {
    errno.ENOENT: "there is no such file or folder (No such file); check the path",
    errno.ENOTDIR: "a file stands where a folder is needed (Not a directory); name another folder",
    errno.EEXIST: "a file stands where a folder is needed, or it is there (File exists); name another",
    errno.EISDIR: "a folder stands where a file is needed (Is a directory); remove it or name another",
    errno.EACCES: "it may not be read or written (Permission denied); change its rights or name another",
    errno.EROFS: "nothing can be written there (Read-only file system); name another folder",
    errno.ENOSPC: "the disk is full (No space left on device); make room and run this again",
    errno.ENAMETOOLONG: "the name is too long (File name too long); name another",
    errno.ELOOP: "links lead in a circle (Too many levels of symbolic links); name another",
}


def system_error(error: OSError) -> str:
    """What the system refused, in one line: the file, the reason and a remedy."""
    place = error.filename if error.filename is not None else "a file"
    if error.errno in IN_WORDS:
        return f"{place}: {IN_WORDS[error.errno]}"
    return f"{place}: {error.strerror}" if error.strerror else str(error)
