"""How a command ends: its exit codes, and a line on stderr instead of a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ablate.cli.terminal import replace_unprintable
from ablate.errors import AblateError, printable, system_error

WRONG, EXIT_FAILED, INTERRUPTED = 2, 1, 130  # exit codes


class RunFailed(AblateError):
    """Raised for one run of several (`-m`): Hydra goes on with the others and names it at the end."""


def fail(reason: str, code: int) -> NoReturn:
    """Print the reason to stderr and exit with `code`; in a multirun, raise RunFailed unless interrupted."""
    reason = printable(reason)
    if code != INTERRUPTED and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise RunFailed(reason)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(reason, file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def stopping() -> Iterator[None]:
    """Answer Ctrl-C with a line. Training answers it by itself, with a record."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped; run this again to go on", INTERRUPTED)


@contextmanager
def writing() -> Iterator[None]:
    """Answer a folder that cannot be written with a line; print what a terminal lacks as question marks."""
    replace_unprintable()
    try:
        yield
    except OSError as error:
        fail(system_error(error), EXIT_FAILED)
