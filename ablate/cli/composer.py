"""Overrides, as a person would type them to train.py, to a specification."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ablate.cli.compose import ConfigError, TrainJob, job, plain_config
from ablate.cli.own_parts import load_named_parts
from ablate.cli.refused import refused
from ablate.paths import CONF
from ablate.spec import RunSpec


class Composer:
    """Compose specifications from overrides, and remember the user's parts that they name. `groups` are
    folders with config groups of the user's own, such as `--config-dir` names."""

    def __init__(self, cache: Path | str, groups: Sequence[str] = ()):
        self.cache, self.groups = cache, groups
        self.parts: list[str] = []

    def __call__(self, overrides: list[str]) -> dict[str, Any]:
        """Compose a specification. Raises ConfigError, also for overrides that do not affect results."""
        # Studies that were frozen earlier say experiment=NAME.
        overrides = [re.sub("^experiment=", "preset=", override) for override in overrides]
        keys = [override.lstrip("+~").split("=")[0] for override in overrides]
        heeded = {*RunSpec.model_fields, "parts", "start", "preset", "debug"}
        ignored = [key for key in keys if re.split("[./@]", key)[0] not in heeded]
        if ignored:
            reason = "does not affect results, so an arm cannot set it"
            remedy = "Set it for the whole study (see `sweep.py --help`)"
            raise ConfigError([f"{key}: {reason}. {remedy}." for key in ignored])
        return self.job(overrides).spec.model_dump(mode="json")

    def job(self, overrides: list[str]) -> TrainJob:
        """The run of train.py with these overrides, ready to start. Raises ConfigError."""
        load_named_parts(overrides)
        GlobalHydra.instance().clear()
        quoted = ["'" + folder.replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in self.groups]
        beside = [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose("train", [*overrides, *beside])
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([refused(error)]) from None
        # Not as an override: a path may have any characters.
        todo = job({**plain_config(config), "cache": str(self.cache)})
        self.parts = list(dict.fromkeys([*self.parts, *todo.rest.parts]))
        return todo
