"""The runs of a study as jobs of the engine: what each is asked to do, which are trained as one, and how
those that run are shown."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from ablate.cli.engines import launch_on_engine
from ablate.cli.isolated import in_subprocess
from ablate.cli.mirrors import run_label, run_logger
from ablate.cli.workspace import Workspace
from ablate.engine import view, worker
from ablate.engine.roster import Roster, RosterRun
from ablate.spec import RunSpec
from ablate.study.design import runs
from ablate.study.design.compile_policy import Compiling
from ablate.study.design.differences import with_value
from ablate.study.design.planned import Plan
from ablate.train.request import RunRequest

_WORTH = 1.1  # times as fast as its runs one after the other: what an ensemble must be


class Jobs:
    """Trains the runs of one study that are missing, a stage at a time."""

    def __init__(
        self, workspace: Workspace, planned: Plan, measures: Sequence[str], console: Console
    ) -> None:
        self.workspace, self.options, self.console = workspace, workspace.options, console
        self.measures = measures
        self.shares = planned.study.budgets[:-1]
        # Ensembles are not compiled, so where runs may be joined to some, a run is compiled on request only.
        wish = self.options.compile
        elsewhere = self.options.engine != "local"  # what compiling saves there is not measured here
        wish = False if wish == "auto" and (self.options.together > 1 or elsewhere) else wish
        self.compiling = Compiling(wish, planned, len(workspace.slots), workspace, console.print)

    def list_runs(self, known: Sequence[runs.PlannedRun]) -> None:
        """Write down which runs the study needs, for `ablate status`."""
        steps: dict[tuple[str, str, float], int] = {}  # by corpus, arm and budget
        for run in known:
            if (run.corpus, run.arm, run.budget) not in steps:
                steps[run.corpus, run.arm, run.budget] = RunSpec.model_validate(run.spec).steps
        listed = tuple(
            RosterRun(
                id=run.id,
                label=run_label(run),
                arm=run.arm,
                role=run.role,
                source_hash=self.workspace.source_hash(run),
                steps=steps[run.corpus, run.arm, run.budget],
            )
            for run in known
        )
        complete = any(run.role != "tuning" for run in known)
        slots = max(1, self.workspace.parallel // self.options.devices)
        study = self.options.folder.name
        roster = Roster(study=study, runs=listed, slots=slots, complete=complete, engine=self.options.engine)
        roster.save(self.workspace.store.root)

    def launch(self, stage: runs.Stage) -> None:
        """Train what is missing of a stage, in all slots at once."""
        missing = [run for run in stage.runs if not self.workspace.has_outcome(run)]
        jobs = list({run.id: self.job(run) for run in missing}.values())
        if not jobs:
            return
        self.console.print(f"{stage.name}: {len(jobs)} runs to do")
        names = {run.id: run_label(run) for run in stage.runs}
        slots = self.workspace.slots
        grouped, most = self.grouped(jobs)
        progress = view.View(
            len(jobs),
            self.workspace.parallel,
            name=lambda id: names.get(id, id),
            ranking=self.ranking(stage),
            console=self.console,
        )
        with progress:
            launch_on_engine(self.options, grouped, slots, most, self.workspace.store, progress)

    def job(self, run: runs.PlannedRun) -> worker.Job:
        """The job of one run. Tuning runs are not measured."""
        measures = () if run.role == "tuning" else self.measures
        request = self.workspace.request(run.spec, measures, run_logger(self.options, run))
        if run.stem:
            request = request.model_copy(update={"stem": self.workspace.store.folder(run.stem)})
        elif run.role == "test":
            request = request.model_copy(update={"branches": self.branches(run)})
        return worker.Job(
            run.id,
            request.with_settings(compile=self.compiling(run)).payload(),
            devices=self.options.devices,
            source_hash=self.workspace.source_hash(run),
            spec=run.spec,
            fingerprint=self.workspace.text(request.spec.data).fingerprint,
        )

    def branches(self, run: runs.PlannedRun) -> tuple[int, ...]:
        """The steps at which a run leaves its state for those that branch off it."""
        long = RunSpec.model_validate(run.spec)
        shorter = (
            with_value(run.spec, runs.TOKENS, int(share * long.budget.tokens)) for share in self.shares
        )
        from ablate.train.state.branch import shared_steps

        return tuple(shared_steps(RunSpec.model_validate(short), long) for short in shorter)

    def grouped(self, jobs: list[worker.Job]) -> tuple[list[worker.Job], int]:
        """The jobs, marked where they are to be trained as one, and the most that are. With `ensemble=auto`
        only where that is measured to be faster, with a number wherever it is possible."""
        most = min(self.options.together, -(-len(jobs) // len(self.workspace.slots)))
        if most < 2:
            return jobs, 1
        from ablate.train.speed.ensemble_runs import ensemble_refusal, family

        families: dict[str, list[worker.Job]] = {}
        for job in jobs:
            request = RunRequest.read(job.payload)
            if request.branches or request.stem:
                continue  # an ensemble keeps no state of a single run
            if ensemble_refusal(request.spec, request.settings) is None:
                families.setdefault(family(request.spec), []).append(job)
        chosen = {name: alike for name, alike in families.items() if len(alike) > 1}
        if self.options.ensemble == "auto":
            chosen = self.faster(chosen, most)
        group = {job.id: name for name, alike in chosen.items() for job in alike}
        return [replace(job, group=group.get(job.id, "")) for job in jobs], most

    def faster(self, families: dict[str, list[worker.Job]], most: int) -> dict[str, list[worker.Job]]:
        """The families whose ensembles are faster than their runs one after the other, by a few steps of
        each."""
        from ablate.train.speed.ensemble_gain import EnsembleGain, gain

        ensembles = [[job.payload for job in alike[:most]] for alike in families.values()]
        gains = in_subprocess(gain, ensembles, lambda reason: EnsembleGain(reason=reason))
        paying = {}
        for (name, alike), ensemble, measured in zip(families.items(), ensembles, gains, strict=True):
            if measured.ratio >= _WORTH:
                paying[name] = alike
                speed = f"{measured.ratio:.1f} times as fast"
                self.console.print(f"{len(ensemble)} runs trained as one are {speed}")
        return paying

    def ranking(self, stage: runs.Stage) -> view.Ranking:
        """A function that gives the mean validation loss of each arm so far, best first. It is shown while
        runs are trained, and decides nothing."""

        def ranked() -> list[tuple[str, str]]:
            frame = self.workspace.outcomes(stage.runs)
            frame = frame[(frame["status"] == "finished") & (frame["role"] != "budget")]
            if "validation/loss" not in frame.columns or frame.empty:
                return []
            means = frame.groupby("arm")["validation/loss"].mean().sort_values()
            return [(str(arm), f"{value:.4f}") for arm, value in means.items()]

        return ranked
