"""Overrides, as a person would type them to train.py, to a specification."""

import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ablate.cli.compose import Job, Mistaken, job
from ablate.cli.own_parts import load_named_parts
from ablate.paths import CONF
from ablate.spec import RunSpec


class Composer:
    """Overrides, as a person would type them to train.py, to a specification."""

    def __init__(self, cache: str):
        self.cache = cache
        self.parts: list[str] = []

    def __call__(self, overrides: list[str]) -> dict[str, Any]:
        """Raises Mistaken, also for what decides no number: a study would not heed it."""
        keys = [override.lstrip("+~").split("=")[0] for override in overrides]
        heeded = {*RunSpec.model_fields, "parts", "start", "experiment", "debug"}
        ignored = [key for key in keys if re.split("[./@]", key)[0] not in heeded]
        if ignored:
            how = "decides no number of a run; how runs are done is set for all of them: sweep.py --help"
            raise Mistaken([f"{key}: {how}" for key in ignored])
        todo = self.job(overrides)
        return todo.spec.model_dump(mode="json")

    def job(self, overrides: list[str]) -> Job:
        load_named_parts(overrides)
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose("train", [*overrides, f"cache={self.cache}"])
        except (HydraException, OmegaConfBaseException) as error:
            there = getattr(error, "options", None)  # of a group, where the choice is none of them
            choices = f"; there are {', '.join(sorted(there))}" if there else ""
            raise Mistaken([str(error).splitlines()[0] + choices]) from None
        todo = job(config)
        self.parts = list(dict.fromkeys([*self.parts, *todo.rest["parts"]]))
        return todo
