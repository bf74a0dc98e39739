"""Studies and campaigns from Python: what `ablate sweep` and `ablate try` do, without printed tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ablate.cli.compose import ConfigError
from ablate.cli.sweep import Sweep, options_of
from ablate.cli.terminal import PlainConsole
from ablate.engine.launch import EngineError
from ablate.paths import CONF
from ablate.study.design.planned import Plan
from ablate.study.design.study import load_study
from ablate.study.judge.study_judgement import StudyJudgement

if TYPE_CHECKING:
    from ablate.cli.campaign import RefereeAnswer


def plan_study(folder: Path | str, **options: Any) -> Plan:
    """Plan the study in `folder` (with a study.yaml): compose, check and match every arm; train nothing.

    `options` are those of `ablate sweep`, such as `runs="runs"`. Raises ConfigError or StudyError.
    """
    sweep = _sweep(folder, options)
    return sweep.planned(load_study(sweep.file))


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


def try_change(
    folder: Path | str, change: Sequence[str], *, more: int = 0, **options: Any
) -> "RefereeAnswer":
    """Ask the referee of the campaign in `folder` (with a campaign.yaml) about a change: keep, discard, or
    undecided.

    `change` holds overrides of train.py, and names of Python files with parts of one's own. `more` gives a
    try that was undecided so many runs more. `options` are those of `ablate sweep`, such as `runs="runs"`.
    What was run or decided before is not done again. Raises ConfigError or CampaignError for a change that is
    refused before anything is run, EngineError where the baseline cannot be run.
    """
    from ablate.cli.campaign import CampaignRunner

    if isinstance(change, str):
        raise ConfigError([f"change: a list of overrides, such as [{change!r}]"])
    return CampaignRunner(Path(folder), **options).attempt(change, more)


def report_campaign(folder: Path | str) -> dict[str, Any]:
    """Write the report of the campaign in `folder`; return it as plain data: tries, baselines, what is left.
    Raises CampaignError where nothing was tried yet."""
    from ablate.campaign.page import status_json, write_campaign_report

    write_campaign_report(Path(folder))
    return status_json(Path(folder))
