"""What `python sweep.py` does: plans a study, runs what is missing, scores and reports."""

import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from ablate.cli.compose import ConfigError, plain_config, validated
from ablate.cli.exits import EXIT_FAILED, WRONG, fail, stopping, writing
from ablate.cli.jobs import Jobs
from ablate.cli.options import INSTEAD, SweepOptions
from ablate.cli.references import check_references, update_references
from ablate.cli.scoring import check_heldout, check_measures, check_sets, requested_measures, score_missing
from ablate.cli.show import print_outlook
from ablate.cli.terminal import PlainConsole
from ablate.cli.workspace import Workspace
from ablate.data.source import NetworkError
from ablate.engine.launch import EngineError
from ablate.spec import RunSpec
from ablate.study.design import forecast, runs
from ablate.study.design.claim import OF_SEVERAL
from ablate.study.design.freeze import amendments, freeze, frozen
from ablate.study.design.plan import plan
from ablate.study.design.planned import Plan
from ablate.study.design.study import Study, StudyError, load_study

if TYPE_CHECKING:
    from ablate.study.judge.study_judgement import StudyJudgement
    from ablate.study.results import Results

NOT_OPTIONS = ("defaults", "hydra")  # keys of conf/sweep.yaml


@writing()
@stopping()
def sweep(config: DictConfig) -> None:
    """Run a study, or do what the options say instead. Exits with 2 where the options, the study or an arm is
    wrong, 1 where runs are missing at the end."""
    console = PlainConsole(highlight=False)
    try:
        options = options_of(config)
        if options.compare is not None:
            from ablate.cli.compare_runs import compare_runs

            compare_runs(options.compare, console)
        else:
            Sweep(options, console, own_groups()).go()
    except (ConfigError, StudyError) as error:
        fail("\n".join(error.mistakes), WRONG)
    except (ValueError, NetworkError) as error:
        fail(str(error), WRONG)
    except EngineError as error:
        fail(str(error), EXIT_FAILED)


def own_groups() -> list[str]:
    """The folders of config groups that `--config-dir` and `hydra.searchpath` name on the command line."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [
        f"file://{source.path}"
        for source in sources
        if source.schema == "file" and source.provider in ("command-line", "hydra.searchpath in command-line")
    ]


def options_of(config: DictConfig, **changes: Any) -> SweepOptions:
    """Validate the options, with `changes` in their place. Raises ConfigError with all mistakes."""
    node = {key: value for key, value in plain_config(config).items() if key not in NOT_OPTIONS} | changes
    mistakes: list[str] = []
    options = validated(SweepOptions, node, mistakes)
    if not isinstance(options, SweepOptions):
        raise ConfigError(mistakes)
    return options


class Sweep:
    """One study, from its file to its report."""

    def __init__(self, options: SweepOptions, console: Console, groups: Sequence[str] = ()):
        self.options, self.console = options, console
        self.folder, self.file = options.folder, options.file
        if not self.file.is_file():
            names = sorted(path.parent.name for path in options.experiments.glob("*/study.yaml"))
            choices = f"there are {', '.join(names) or 'none'}"
            raise ConfigError([f"experiment: there is no {self.file}; {choices}"])
        self.workspace = Workspace(options, groups)
        self.notes: list[str] = []

    def go(self) -> "StudyJudgement | None":
        """Do what the options say; return the verdicts where a report was made."""
        options = self.options
        if options.report or options.timing or options.samples:
            self.check_results()
        if options.report:
            return self.report()
        frozen(self.folder)  # raises where it was edited by hand, before anything is run
        self.take_up()
        planned = self.planned(load_study(self.file))
        if options.plan:
            self.show_plan(planned)
        elif options.pack:
            self.pack(planned)
        elif options.timing:
            self.time(planned)
            return self.report()
        elif options.samples:
            self.sample()
            return self.report()
        elif options.freeze:
            freeze(self.file, planned, self.tested(planned))
            self.console.print(f"The plan is frozen in {self.folder / 'plan.json'}.")
        else:
            called = self.run(planned)
            return self.finish(planned, called)
        return None

    def check_results(self) -> None:
        """Raise ConfigError where the study has no results to report or to add to."""
        from ablate.study.results import FOLDER

        if not (self.folder / FOLDER).is_dir():
            name = next(name for name in INSTEAD if getattr(self.options, name))
            raise ConfigError([f"{name}: {self.folder} has no results yet; run the study first"])

    # ---------------------------------------------------------------------------------- records

    def take_up(self) -> None:
        """Take up packed records that the store lacks. Raises ValueError for a damaged file."""
        from ablate.study.results.packed import unpack_records

        taken = unpack_records(self.options.records, self.workspace.store)
        if taken:
            self.console.print(f"{taken} runs are taken up from {self.options.records}", soft_wrap=True)

    def pack(self, planned: Plan) -> None:
        """Pack the records of finished runs: of those that are judged, the ones that have been measured."""
        from ablate.study.results.packed import pack_records

        measures = requested_measures(planned.study, self.options)
        ended = [(run, self.workspace.store.find(run.id)) for run in self.known_runs(planned)]
        ready, unmeasured = [], 0
        for run, record in ended:
            if record is None:
                continue
            waits = record.status == "finished" and not set(measures) <= record.measures.keys()
            if waits and run.role != "tuning":
                unmeasured += 1
            else:
                ready.append(run.id)
        files = pack_records(self.options.records, ready, self.workspace.store)
        for file in files:
            self.console.print(f"{file}  {file.stat().st_size / 1e6:.2f} MB", soft_wrap=True)
        if not files:
            self.console.print("There is nothing new to pack.")
        if unmeasured:
            self.console.print(f"{unmeasured} runs are left out, not measured yet; run the study first")

    # ------------------------------------------------------------------------------------- plan

    def planned(self, study: Study) -> Plan:
        """The plan, every arm checked. Raises ConfigError or StudyError."""
        planned = plan(study, self.workspace)
        check_measures(study, self.options)  # among them those of `parts`, which the plan has loaded
        store = self.workspace.store
        for arm in planned.arms:
            parent = arm.spec.get("parent")
            if parent and not (store.folder(parent) / "record.json").is_file():
                raise ConfigError([f"arm {arm.name}: init_from: {parent} is not in {store.root}; see runs="])
        check_sets(planned)
        check_references(planned)
        check_heldout(planned, self.workspace)
        return planned

    def known_runs(self, planned: Plan) -> list[runs.PlannedRun]:
        """The runs that can be named before anything is run: later stages follow from the tuning."""
        known, _ = self.known_and_later_runs(planned)
        return known

    def known_and_later_runs(self, planned: Plan) -> tuple[list[runs.PlannedRun], list[runs.PlannedRun]]:
        """Those of `known_runs`, and what later looks may add to them."""
        known: list[runs.PlannedRun] = []
        later: tuple[runs.PlannedRun, ...] = ()
        for stage in runs.stages(planned, self.workspace, partial(self.going_on, planned)):
            known += stage.runs
            later = stage.later
            if any(not self.workspace.has_outcome(run) for run in stage.runs):
                break
        else:
            later = ()
        return known, list(later)

    def going_on(self, planned: Plan, called: Sequence[runs.PlannedRun]) -> set[tuple[str, str]]:
        """The (corpus, arm) that are not decided by the runs so far, and get the seeds of the next look."""
        from ablate.study.judge.corpus import arms_going_on

        return arms_going_on(self.collected(planned, called))

    def tested(self, planned: Plan) -> int:
        """The number of test runs that have ended already."""
        tests = [run for run in self.known_runs(planned) if run.role == "test"]
        return sum(self.workspace.has_outcome(run) for run in tests)

    def show_plan(self, planned: Plan) -> None:
        """Print what the study would be, cost and be able to decide."""
        known, later = self.known_and_later_runs(planned)
        finished = {run.id for run in known if self.workspace.has_outcome(run)}
        seconds = self.seconds_by_arm(known)
        if not seconds and not self.options.gpus:  # a CPU does not tell what a GPU takes
            first = planned.arms[0]
            probed = self.workspace.probe(RunSpec.model_validate(first.spec))
            seconds = {(first.corpus, first.name): probed}
        noise = forecast.seen_noise(planned, self.workspace.outcomes(known))
        slots = self.workspace.parallel
        outlook = forecast.outlook(planned, known, finished, seconds, noise, slots, later)
        print_outlook(self.console, {**outlook, "base": planned.study.base})

    def seconds_by_arm(self, known: Iterable[runs.PlannedRun]) -> dict[tuple[str, str], float]:
        """The median time of a run by (corpus, arm), from those that are finished."""
        times: dict[tuple[str, str], list[float]] = {}
        for run in known:
            done = self.workspace.summary(run)
            if done is not None and done.status == "finished" and (took := done["speed/seconds"]) is not None:
                times.setdefault((run.corpus, run.arm), []).append(took)
        return {arm: statistics.median(seconds) for arm, seconds in times.items()}

    # -------------------------------------------------------------------------------------- run

    def run(self, planned: Plan) -> list[runs.PlannedRun]:
        """Run stage by stage: tuning, then the tests look by look. Returns the runs that were called for."""
        measures = requested_measures(planned.study, self.options)
        jobs = Jobs(self.workspace, planned, measures, self.console)
        called: list[runs.PlannedRun] = []
        for stage in runs.stages(planned, self.workspace, partial(self.going_on, planned)):
            for note in stage.notes:
                self.console.print(Text(note))
            self.notes += stage.notes
            called += stage.runs
            jobs.list_runs(self.known_runs(planned))
            jobs.launch(stage)
            judged = [run for run in stage.runs if run.role != "tuning"]
            score_missing(measures, judged, self.workspace, self.console)
            self.workspace.drop_branches(stage.runs)
        return called

    def time(self, planned: Plan) -> None:
        """Time the arms in turn in this process: those of the first corpus, without the placebo."""
        import torch
        from rich.progress import track

        from ablate.measure.timing import ROUNDS, time_in_turn
        from ablate.provenance import provenance
        from ablate.study.results import write_timings

        arms = [arm for arm in planned.on(planned.corpora[0]) if arm.name != planned.placebo]
        specs = {arm.name: RunSpec.model_validate(arm.spec) for arm in arms}
        device = self.options.device
        if device == "cpu":
            torch.set_num_threads(1)
        rounds = track(time_in_turn(specs, device=device), "timed in turn", ROUNDS, console=self.console)
        timings = [timing for each in rounds for timing in each]
        write_timings(self.folder, timings, provenance(device, 1, "auto"))

    def sample(self) -> None:
        """Keep what every arm writes beside the results."""
        from ablate.cli.samples import samples
        from ablate.study.results import read_results, write_samples

        write_samples(self.folder, list(samples(read_results(self.folder).runs, self.workspace)))

    # ----------------------------------------------------------------------------------- report

    def collected(self, planned: Plan, called: Sequence[runs.PlannedRun]) -> "Results":
        """What the store knows of these runs."""
        from ablate.study.results import collect

        before = frozen(self.folder)
        return collect(
            planned,
            called,
            self.workspace.store,
            name=self.folder.name,
            frozen=before,
            amendments=amendments(before, self.file, planned) if before else (),
            notes=self.notes,
            source_hash=self.workspace.source_hash,
        )

    def finish(self, planned: Plan, called: list[runs.PlannedRun]) -> "StudyJudgement":
        """Write the results and the report. Exits with 1 where runs are missing, or lack the metric."""
        from ablate.study.results import write_results

        results = self.collected(planned, called)
        write_results(results, self.folder)
        update_references(planned, self.workspace, self.folder)
        judgement = self.report()
        missing = [run for run in called if not self.workspace.has_outcome(run)]
        if missing:
            log = self.workspace.store.folder(missing[0].id) / "log"
            remedy = f"run this again to resume (one has its log in {log})"
            fail(f"{len(missing)} runs are missing; {remedy}", EXIT_FAILED)
        tune = planned.study.tune
        tuned = results.runs[(results.runs["role"] == "tuning") & (results.runs["status"] == "finished")]
        if tune and len(tuned) and (tune.metric not in tuned or tuned[tune.metric].isna().any()):
            fail(
                f"tuning runs have finished without {tune.metric}, so no rate can be chosen; "
                "name a metric in tune.metric that they have",
                EXIT_FAILED,
            )
        metric = planned.study.metric
        ended = results.runs[(results.runs["role"] == "test") & (results.runs["status"] == "finished")]
        if metric not in OF_SEVERAL and (metric not in ended or ended[metric].isna().any()):
            fail(
                f"runs have finished without {metric}: see above, or name a metric that they have",
                EXIT_FAILED,
            )
        return judgement

    def report(self) -> "StudyJudgement":
        """Rebuild and show the report, from the results alone."""
        from ablate.study.report.render import report
        from ablate.study.report.terminal import show

        judgement = report(self.folder)
        show(self.console, judgement)
        self.console.print(str(self.folder / "report.html"))
        wandb = self.options.wandb
        if wandb.report:
            from ablate.study.report.dashboard import publish

            published = publish(self.folder, judgement, wandb.project, wandb.entity, Path(self.options.runs))
            for line in published.said:
                self.console.print(Text(line), soft_wrap=True)  # an address stays whole
        return judgement
