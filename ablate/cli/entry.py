"""The two Hydra commands: `train.py` and `sweep.py` of a clone, `ablate train` and `ablate sweep`."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.cli.exits import EXIT_FAILED, WRONG
from ablate.cli.help import answer_help
from ablate.cli.own_parts import load_named_parts
from ablate.cli.refused import refused
from ablate.errors import AblateError, printable, system_error
from ablate.paths import CONF, PACKAGE

TRACEBACK = "HYDRA_FULL_ERROR"


def train_main() -> None:
    """Train one model, or several with `-m`; the arguments are Hydra's, read from sys.argv."""
    sys.argv[1:] = arranged(sys.argv[1:])
    answer_help("train", sys.argv[1:])
    load_named_parts(sys.argv[1:])
    with hydra_refusals():
        _train()


def sweep_main() -> None:
    """Answer a question; the arguments are Hydra's, read from sys.argv."""
    answer_help("sweep", sys.argv[1:])
    # Stored rather than searched for in conf/, where the groups are those of train.py.
    ConfigStore.instance().store("sweep", OmegaConf.load(CONF / "sweep.yaml"))
    with hydra_refusals():
        _sweep()


@contextmanager
def hydra_refusals() -> Iterator[None]:
    """Answer what Hydra refuses with one line, and exit with 2; with 1 where a run of a multirun failed.

    HYDRA_FULL_ERROR=1 in the environment shows the traceback instead.
    """
    whole = bool(os.environ.get(TRACEBACK))
    os.environ[TRACEBACK] = "1"  # Hydra then raises what it would print over several lines
    try:
        yield
    except (HydraException, OmegaConfBaseException, AblateError, ValueError, OSError) as error:
        if whole or not (isinstance(error, AblateError) or of_hydra(error)):
            raise
        line = str(error) if isinstance(error, AblateError) else refused(error)
        if isinstance(error, OSError) and error.errno:
            line = system_error(error)
        print(printable(line), file=sys.stderr)
        raise SystemExit(EXIT_FAILED if isinstance(error, AblateError) else WRONG) from None
    finally:
        if not whole:
            os.environ.pop(TRACEBACK, None)


def of_hydra(error: Exception) -> bool:
    """Whether Hydra refuses what was typed, and no code of ours or of a user's failed."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    frames = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any("hydra" in frame.parts for frame in frames[-4:]) and not any(
        frame.is_relative_to(PACKAGE / "cli") and frame.name != "entry.py" for frame in frames
    )


def arranged(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them: it knows `-m` only before the overrides."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _train(config: DictConfig) -> float | None:
    from ablate.cli.train import train

    return train(config)


@hydra.main(config_path=None, config_name="sweep", version_base="1.3")
def _sweep(config: DictConfig) -> None:
    from ablate.cli.sweep import sweep

    sweep(config)
