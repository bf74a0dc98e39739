"""Studies from Python: what `ablate sweep` does, with results instead of printed tables."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablate.cli.compose import ConfigError
from ablate.cli.sweep import Sweep, options_of
from ablate.cli.terminal import PlainConsole
from ablate.engine.launch import EngineError
from ablate.paths import CONF
from ablate.study.design.planned import Plan
from ablate.study.design.study import load
from ablate.study.judge.study_judgement import StudyJudgement


def plan_study(folder: Path | str, **options: Any) -> Plan:
    """Plan the study in `folder` (with a study.yaml): compose, check and match every arm; train nothing.

    `options` are those of `ablate sweep`, such as `runs="runs"`. Raises ConfigError or StudyError.
    """
    sweep = _sweep(folder, options)
    return sweep.planned(load(sweep.file))


def run_study(folder: Path | str, **options: Any) -> StudyJudgement:
    """Do the missing runs of the study in `folder`, score them, write its report; return the verdicts.

    `options` are those of `ablate sweep`, such as `slots=2`. What is finished is not done again. Raises
    ConfigError or StudyError for mistakes, EngineError where runs are missing at the end.
    """
    sweep = _sweep(folder, options)
    try:
        judgement = sweep.go()
    except SystemExit:
        raise EngineError(f"{folder}: runs are missing at the end; run the study again to go on") from None
    if judgement is None:
        raise ConfigError(["plan, freeze: train nothing, so there are no verdicts; use plan_study"])
    return judgement


def _sweep(folder: Path | str, options: dict[str, Any]) -> Sweep:
    place = Path(folder)
    defaults = OmegaConf.load(CONF / "sweep.yaml")
    assert isinstance(defaults, DictConfig)
    options |= {"experiments": place.parent, "experiment": place.name}
    return Sweep(options_of(defaults, **options), PlainConsole(quiet=True))
