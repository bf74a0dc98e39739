"""The runs of a campaign as jobs of the engine: trained without held-out text, under limits, then scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablate.campaign.journal import Values
from ablate.campaign.limits import STOPPED_FILE, why_stopped
from ablate.campaign.rules import Campaign
from ablate.campaign.withheld import withhold
from ablate.cli.engines import WORK
from ablate.cli.mirrors import NO_LOGGER
from ablate.cli.options import SweepOptions
from ablate.cli.sweep import options_of
from ablate.cli.workspace import Workspace
from ablate.engine.launch import EngineError, Event, launch
from ablate.engine.store import MISSING
from ablate.engine.worker import Job
from ablate.paths import CONF
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.study.design.runs import PlannedRun


def campaign_options(folder: Path, **changes: Any) -> SweepOptions:
    """The options of a campaign's runs: those of `ablate sweep`, for one folder."""
    defaults = OmegaConf.load(CONF / "sweep.yaml")
    assert isinstance(defaults, DictConfig)
    place = {"experiments": folder.parent, "experiment": folder.name}
    return options_of(defaults, **{"retries": 0, "slots": 1, **changes, **place})


@dataclass(frozen=True)
class Loss:
    """A run without a value: its seed, its record and its folder."""

    seed: int
    record: RunRecord | None
    folder: Path

    @property
    def counts(self) -> bool:
        """Whether this is an outcome of the change, and not of the machine."""
        ended = self.record is not None and self.record.status not in MISSING
        return ended or bool(why_stopped(self.folder))

    def __str__(self) -> str:
        status, reason = ("crashed", "") if self.record is None else (self.record.status, self.record.reason)
        stopped = why_stopped(self.folder)
        said = stopped or f"{status}{reason and ': '}{reason} (its log: {self.folder / 'log'})"
        return f"seed {self.seed}: {said}"


class CampaignRuns:
    """Trains and scores runs of one campaign; `trained` counts those that this object has trained."""

    def __init__(self, rules: Campaign, workspace: Workspace, measures: Sequence[str]) -> None:
        self.rules, self.workspace, self.measures = rules, workspace, measures
        self.trained = 0

    def measured(self, runs: Sequence[PlannedRun]) -> tuple[Values, Loss | None]:
        """The metric by seed of runs that have ended, up to the first that has none, and why it has none."""
        values: Values = {}
        for run in runs:
            record, folder = self.workspace.store.find(run.id), self.workspace.store.folder(run.id)
            if record is None or record.status != "finished":
                return values, Loss(run.seed, record, folder)
            values[run.seed] = self.scored(run)
        return values, None

    def scored(self, run: PlannedRun) -> float:
        """The metric of a finished run, measured in this process, which alone reads the held-out text."""
        from ablate.measure.score import score

        record = score(self.workspace.store.folder(run.id), self.workspace.options.cache, self.measures)
        value = record.metrics.get(self.rules.metric)
        if value is None:
            raise EngineError(f"{run.id} has finished without {self.rules.metric}; name a metric that it has")
        return float(value)

    def train(self, runs: Sequence[PlannedRun], baseline: dict[int, str]) -> None:
        """Train what is missing, from a text without its held-out split. `baseline` has the ids of the runs,
        by seed, that others may be held against."""
        missing = [run for run in runs if not self.workspace.has_outcome(run)]
        for run in missing:
            (self.workspace.store.folder(run.id) / STOPPED_FILE).unlink(missing_ok=True)
        jobs = [self.job(run, baseline.get(run.seed)) for run in missing]
        if not jobs:
            return

        def heard(event: Event) -> None:
            if event.kind == "ended":
                self.trained += 1

        launch(jobs, self.workspace.slots, WORK, heard, store=self.workspace.store, retries=0)

    def job(self, run: PlannedRun, reference: str | None) -> Job:
        prepared = self.workspace.text(RunSpec.model_validate(run.spec).data)
        cache = withhold(prepared, self.workspace.options.cache / "withheld")
        request = self.workspace.request(run.spec, (), NO_LOGGER)
        request = request.model_copy(update={"cache": cache, "callbacks": self.callbacks(run, reference)})
        return Job(
            run.id,
            request.payload(),
            source_hash=self.workspace.source_hash(run),
            spec=run.spec,
            fingerprint=prepared.fingerprint,
        )

    def callbacks(self, run: PlannedRun, reference: str | None) -> tuple[dict[str, Any], ...]:
        """What watches a run: nothing where no limit is set."""
        fast = self.rules.fail_fast if reference not in (None, run.id) else None
        if self.rules.seconds is None and fast is None:
            return ()
        limits: dict[str, Any] = {
            "_target_": "ablate.campaign.limits.Limits",
            "folder": str(self.workspace.store.folder(run.id).absolute()),
            "seconds": self.rules.seconds,
        }
        if fast is not None and reference is not None:
            limits["reference"] = str(self.workspace.store.folder(reference).absolute())
            limits |= {"above": fast.above, "after": fast.after}
        return (limits,)
