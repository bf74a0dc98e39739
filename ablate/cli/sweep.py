"""What `python sweep.py` does: hands a study what needs torch, runs what is missing, scores and reports."""

import logging
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import Field, StrictBool
from rich.console import Console
from rich.text import Text

from ablate.cli.compare_runs import compare_loose
from ablate.cli.compose import Mistaken, plain, validated
from ablate.cli.composer import Composer
from ablate.cli.isolated import apart, processes
from ablate.cli.show import print_outlook
from ablate.cli.train import FAILED, WRONG, fail, stopping, writing
from ablate.data.prepare import Prepared, prepare
from ablate.data.source import NoNetwork
from ablate.data.stream import Stream
from ablate.engine import launch, slots, view, worker
from ablate.engine.store import MISSING, Store
from ablate.spec import DataSpec, RunSpec, Strict, digest
from ablate.study.design import forecast, runs
from ablate.study.design.claim import OF_SEVERAL, of_runs
from ablate.study.design.compile_policy import Compiling
from ablate.study.design.freeze import amendments, freeze, frozen
from ablate.study.design.plan import LOSSES, Plan, plan
from ablate.study.design.study import Study, StudyMistaken, load
from ablate.train.settings import Keep, Strategy

log = logging.getLogger(__name__)
OF_TRAINING = (*(f"validation/{loss}" for loss in LOSSES), "counts/*", "speed/*", "memory/*")  # what it gives
AT_ONCE = 8  # runs of a stack, where a study does not say
WORTH = 1.1  # times as fast as its runs one after the other: what a stack must be


@writing()
@stopping()
def sweep(config: DictConfig) -> None:
    """Exits with 2 where the study or an arm is wrong, 1 where runs are missing at the end."""
    console = Console(highlight=False)
    try:
        node = plain(config)
        mistakes: list[str] = []
        validated(Options, {key: node[key] for key in Options.model_fields}, mistakes)
        if mistakes:
            raise Mistaken(mistakes)
        if node["runs"]:
            compare_loose(node, console)
        elif node["experiment"]:
            Sweep(node, console).go()
        else:
            raise Mistaken(["experiment: give the name of a folder in experiments/, or runs='runs/*'"])
    except (Mistaken, StudyMistaken) as error:
        fail("\n".join(error.mistakes), WRONG)
    except (ValueError, NoNetwork) as error:
        fail(str(error), WRONG)
    except launch.Stuck as error:
        fail(str(error), FAILED)


class Options(Strict):
    """What sweep.py would otherwise find wrong only when runs start, or not at all."""

    plan: StrictBool
    freeze: StrictBool
    report: StrictBool
    race: StrictBool
    gpus: StrictBool
    measure: list[str]
    keep: Keep
    slots: int | None = Field(gt=0)
    per_gpu: int = Field(gt=0)
    devices: int = Field(gt=0)
    strategy: Strategy
    retries: int = Field(ge=0)


class Sweep:
    """One study, from its file to its report."""

    def __init__(self, node: dict[str, Any], console: Console):
        self.node, self.console = node, console
        self.folder = Path(node["experiments"]) / node["experiment"]
        self.file = self.folder / "study.yaml"
        if not self.file.is_file():
            there = sorted(p.parent.name for p in Path(node["experiments"]).glob("*/study.yaml"))
            raise Mistaken([f"experiment: there is no {self.file}; there are {', '.join(there) or 'none'}"])
        self.store = Store(node["store"])
        self.composer = Composer(node["cache"])
        self.replicas = at_once(node["replicas"])
        if node["compile"] not in ("auto", True, False):
            raise Mistaken([f"compile: auto, true or false, not {node['compile']!r}"])
        self.notes: list[str] = []
        self.codes: dict[tuple[str, str], str] = {}
        self.texts: dict[str, Prepared] = {}

    def go(self) -> None:
        from ablate.study.results import FOLDER

        of_results = [word for word in ("report", "race") if self.node[word]]
        if of_results and not (self.folder / FOLDER).is_dir():
            raise Mistaken([f"{of_results[0]}: {self.folder} has no results yet; run the study first"])
        if self.node["report"]:
            self.report()
            return
        frozen(self.folder)  # raises where it was edited by hand, before anything is run
        study = load(self.file)
        planned = self.planned(study)
        if self.node["plan"]:
            self.show_plan(planned)
            return
        if self.node["race"]:
            self.race(planned)
            self.report()
            return
        if self.node["freeze"]:
            freeze(self.file, planned, self.tested(planned))
            self.console.print(f"The plan is frozen in {self.folder / 'plan.json'}.")
            return
        done = self.run(planned)
        self.finish(planned, done)

    # ------------------------------------------------------------------------------------- plan

    def planned(self, study: Study) -> Plan:
        from ablate.cli.check import checker

        found = plan(study, self.composer, checker(Path(self.node["cache"]), self.device))
        self.check_measures(study)  # among them those of `parts`, which the plan has loaded
        for arm in found.arms:
            parent = arm.spec.get("parent")
            if parent and not (self.store.folder(parent) / "record.json").is_file():
                raise Mistaken([f"arm {arm.name}: start: {parent} is not in {self.store.root}; see store="])
        self.check_heldout(found)
        return found

    def check_measures(self, study: Study) -> None:
        """Every number that is asked for is one of training or of a registered measure."""
        from ablate.measure import beyond, gives
        from ablate.registry import measure

        known = [*OF_TRAINING, *(pattern for name in measure for pattern in gives(name))]
        wrong = beyond(known, dict.fromkeys(asked(study)))
        if wrong:
            families = {name.split("/")[0] for name in wrong}
            near = [name for name in known if name.split("/")[0] in families]
            raise Mistaken(
                [*(f"{name}: no measure gives it" for name in wrong), f"there are {', '.join(near or known)}"]
            )
        if self.node["keep"] == "none" and self.measures(study):
            names = ", ".join(self.measures(study))
            raise Mistaken([f"keep=none: {names} is measured on kept weights; say keep=weights"])

    def check_heldout(self, planned: Plan) -> None:
        """The measures that read held-out text find a window of it, and no example that is too long."""
        from ablate.measure import opens_heldout

        names = self.measures(planned.study)
        reading = [name for name in names if opens_heldout(name)]
        for arm in planned.arms if reading else ():
            spec = RunSpec.model_validate(arm.spec)
            split = self.text(spec.data).splits["heldout"]
            if split.loss_mask is not None and "heldout" not in reading:
                continue  # skill reads examples of any length
            try:
                Stream(split, spec.model.context, spec.data.documents, 0, spec.data.prefix)
            except ValueError as error:
                said = f"arm {arm.name}: {', '.join(reading)} would fail after the runs: {error}"
                raise Mistaken([said]) from None

    @property
    def device(self) -> str:
        return "cuda" if self.node["gpus"] else "cpu"

    def identify(self, spec: dict[str, Any]) -> dict[str, Any]:
        whole = RunSpec.model_validate(spec)
        return whole.canonical(self.text(whole.data).fingerprint)

    def text(self, data: DataSpec) -> Prepared:
        """It is asked for once: a source on the network answers slowly."""
        key = digest(data.model_dump(mode="json"))
        if key not in self.texts:
            self.texts[key] = prepare(data, Path(self.node["cache"]))
        return self.texts[key]

    def tested(self, planned: Plan) -> int:
        """Test runs that have ended already."""
        return sum(self.has_outcome(run) for run in self.known_runs(planned) if run.role == "test")

    def known_runs(self, planned: Plan) -> list[runs.PlannedRun]:
        """Those that can be named before anything is run: later stages follow from the tuning."""
        known: list[runs.PlannedRun] = []
        for stage in runs.stages(planned, self.identify, self.outcomes):
            known += stage.runs
            if any(not self.has_outcome(run) for run in stage.runs if run.role == "tuning"):
                break
        return known

    def outcomes(self, wanted: Sequence[runs.PlannedRun]) -> Any:
        return runs.tidy(wanted, self.store.find)

    def has_outcome(self, run: runs.PlannedRun) -> bool:
        record = self.store.find(run.id)
        return record is not None and record.status not in MISSING and record.code == self.code(run)

    def code(self, run: runs.PlannedRun) -> str:
        """The hash of the sources of an arm, which its seeds and rates share."""
        from ablate.train.state.source_hash import code

        arm = (run.corpus, run.arm)
        if arm not in self.codes:
            self.codes[arm] = code(RunSpec.model_validate(run.spec))
        return self.codes[arm]

    def show_plan(self, planned: Plan) -> None:
        from ablate.cli.check import probe

        known = self.known_runs(planned)
        finished = {run.id for run in known if self.has_outcome(run)}
        seconds = self.seconds_seen(known)
        if not seconds and not self.node["gpus"]:  # a CPU does not tell what a GPU takes
            first = planned.arms[0]
            seconds = {(first.corpus, first.name): probe(RunSpec.model_validate(first.spec))}
        said = forecast.outlook(
            planned, known, finished, seconds, self.noise(planned, known), self.slot_count()
        )
        print_outlook(self.console, {**said, "base": planned.study.base})

    def seconds_seen(self, known: Iterable[runs.PlannedRun]) -> dict[tuple[str, str], float]:
        """The time of a run by (corpus, arm), from those that are finished."""
        found: dict[tuple[str, str], list[float]] = {}
        for run in known:
            record = self.store.find(run.id)
            if record is not None and record.status == "finished" and "seconds" in record.speed:
                found.setdefault((run.corpus, run.arm), []).append(record.speed["seconds"])
        return {place: statistics.median(values) for place, values in found.items()}

    def noise(self, planned: Plan, known: Sequence[runs.PlannedRun]) -> float | None:
        return forecast.seen_noise(planned, self.outcomes(known))

    def slot_count(self) -> int:
        return len(self.places())

    def places(self) -> list[slots.Slot]:
        if self.node["gpus"]:
            return slots.gpu_slots(each=self.node["per_gpu"])
        return slots.cpu_slots(self.node["slots"])

    # -------------------------------------------------------------------------------------- run

    def run(self, planned: Plan) -> list[runs.PlannedRun]:
        """Stage by stage: tuning, then the tests look by look. Returns the runs that were called for."""
        called: list[runs.PlannedRun] = []
        compiling = self.compiling(planned)
        for stage in runs.stages(planned, self.identify, self.outcomes):
            for note in stage.notes:
                self.console.print(Text(note))
            self.notes += stage.notes
            called += stage.runs
            self.launch(planned, stage, compiling)
            self.score(planned, [run for run in stage.runs if run.role != "tuning"])
        return called

    def compiling(self, planned: Plan) -> Compiling:
        """Stacks are not compiled, so where runs may be stacked, none is but by order."""
        from ablate.cli.check import probe

        wish = self.node["compile"]
        wish = False if wish == "auto" and self.replicas > 1 else wish
        return Compiling(wish, planned, self.slot_count(), probe, compiling_gain, self.console.print)

    def launch(self, planned: Plan, stage: runs.Stage, compiling: Compiling) -> None:
        measures = self.measures(planned.study)
        todo = [run for run in stage.runs if not self.has_outcome(run)]
        jobs = {run.id: self.job(run, compiling, measures) for run in todo}
        if not jobs:
            return
        names = {run.id: f"{run.corpus} {run.arm} seed {run.seed}" + told(run) for run in stage.runs}
        self.console.print(f"{stage.name}: {len(jobs)} runs to do")
        places = self.places()
        grouped, most = self.grouped(list(jobs.values()), len(places))
        progress = view.View(
            len(jobs), len(places), name=lambda id: names.get(id, id), ranking=self.ranking(stage)
        )
        with progress:
            launch.launch(
                grouped,
                places,
                "ablate.train.fit:work",
                progress,
                store=self.store,
                retries=self.node["retries"],
                together="ablate.train.speed.ensemble_runs:work",
                most=most,
                after="ablate.measure.score:after",
            )

    def grouped(self, jobs: list[worker.Job], slots: int) -> tuple[list[worker.Job], int]:
        """The jobs, marked where they are to be trained as one, and how many at most: with `replicas=auto`
        where that is measured to be faster, with a number wherever it is possible."""
        most = min(self.replicas, -(-len(jobs) // slots))
        if most < 2:
            return jobs, 1
        from ablate.train.settings import Settings
        from ablate.train.speed.ensemble_runs import family, refusal

        families: dict[str, list[worker.Job]] = {}
        for one in jobs:
            spec = RunSpec.model_validate(one.payload["spec"])
            if refusal(spec, Settings.model_validate(one.payload["settings"])) is None:
                families.setdefault(family(spec), []).append(one)
        chosen = {name: alike for name, alike in families.items() if len(alike) > 1}
        if self.node["replicas"] == "auto":
            chosen = self.paying(chosen, most)
        group = {one.id: name for name, alike in chosen.items() for one in alike}
        return [replace(one, group=group.get(one.id, "")) for one in jobs], most

    def paying(self, families: dict[str, list[worker.Job]], most: int) -> dict[str, list[worker.Job]]:
        """Those whose stacks are faster than their runs one after the other, by a few steps of each."""
        from ablate.train.speed.ensemble_gain import Gain, gain

        found = {}
        stacks = [[job.payload for job in alike[:most]] for alike in families.values()]
        gains = apart(gain, stacks, lambda reason: Gain(reason=reason))
        for (name, alike), stack, gained in zip(families.items(), stacks, gains, strict=True):
            if gained.ratio >= WORTH:
                found[name] = alike
                self.console.print(f"{len(stack)} runs trained as one are {gained.ratio:.1f} times as fast")
        return found

    def job(self, run: runs.PlannedRun, compiling: Compiling, measures: list[str]) -> worker.Job:
        fingerprint = self.text(RunSpec.model_validate(run.spec).data).fingerprint
        settings = {
            "accelerator": "gpu" if self.node["gpus"] else "cpu",
            "devices": self.node["devices"],
            "strategy": self.node["strategy"],
            "threads": None if self.node["gpus"] else 1,
            "keep": self.node["keep"],
            "progress": False,
            "logger": self.logger(run),
        }
        payload = {
            "spec": run.spec,
            "settings": settings,
            "runs": self.node["store"],
            "cache": self.node["cache"],
            "parts": self.composer.parts,
            "measures": [] if run.role == "tuning" else measures,
        }
        settings["compile"] = compiling(run, payload)
        return worker.Job(
            run.id,
            payload,
            devices=self.node["devices"],
            code=self.code(run),
            spec=run.spec,
            fingerprint=fingerprint,
        )

    def logger(self, run: runs.PlannedRun) -> dict[str, Any]:
        """A mirror at W&B: the study is the group; arm and seed are tags (of 64 letters at most, or W&B
        refuses the run), and in the configuration."""
        if not self.node["wandb"]["mirror"]:
            return {"name": "none"}
        return {
            "name": "wandb",
            "project": self.node["wandb"]["project"],
            "entity": self.node["wandb"]["entity"],
            "group": self.folder.name,
            "tags": [f"arm:{run.arm}"[:64], f"seed:{run.seed}", f"role:{run.role}"],
            "config": {
                "study": self.folder.name,
                "corpus": run.corpus,
                "arm": run.arm,
                "seed": run.seed,
                "role": run.role,
            },
        }

    def ranking(self, stage: runs.Stage) -> view.Ranking:
        """The mean validation loss of each arm so far, best first: a look at validation, which decides
        nothing."""

        def ranked() -> list[tuple[str, str]]:
            frame = self.outcomes(stage.runs)
            frame = frame[(frame["status"] == "finished") & (frame["role"] != "budget")]
            if "validation/loss" not in frame.columns or frame.empty:
                return []
            means = frame.groupby("arm")["validation/loss"].mean().sort_values()
            return [(str(arm), f"{value:.4f}") for arm, value in means.items()]

        return ranked

    # ------------------------------------------------------------------------------------ score

    def measures(self, study: Study) -> list[str]:
        """The registered measures that the study speaks of, and those asked for."""
        from ablate.registry import measure

        wanted = [*(name.split("/")[0] for name in asked(study)), *self.node["measure"]]
        unknown = [name for name in self.node["measure"] if name not in measure]
        if unknown:
            raise Mistaken([f"measure: there is no {', '.join(unknown)}; there are {', '.join(measure)}"])
        return list(dict.fromkeys(name for name in wanted if name in measure))

    def score(self, planned: Plan, done: Iterable[runs.PlannedRun]) -> None:
        """Compute what is missing from the stored weights, several runs side by side: of runs of earlier
        studies, or of stacks; those trained alone were scored where they were trained."""
        from ablate.measure.score import missing, work

        names = self.measures(planned.study)
        found = {run.id: self.store.find(run.id) for run in done}
        payloads = [
            {
                "folder": str(self.store.folder(id)),
                "cache": self.node["cache"],
                "measures": names,
                "parts": self.composer.parts,
            }
            for id, record in found.items()
            if record is not None and record.status == "finished" and missing(record, names)
        ]
        if not payloads:
            return
        self.console.print(f"scoring {len(payloads)} runs: {', '.join(names)}")
        with processes(self.slot_count()) as pool:
            try:
                for trouble in pool.map(work, payloads):
                    if trouble:
                        self.console.print(Text(trouble, style="red"))
            except BrokenProcessPool:
                self.console.print(
                    "a scoring process was killed, for want of memory perhaps; run this again for the rest "
                    "(slots=1 takes the least memory)",
                    style="red",
                )

    def race(self, planned: Plan) -> None:
        """What the arms cost, timed in turn in this process: those of the first corpus, and no placebo."""
        import torch
        from rich.progress import track

        from ablate.measure.timing import ROUNDS, race
        from ablate.provenance import provenance
        from ablate.study.results import write_timings

        arms = [arm for arm in planned.on(planned.corpora[0]) if arm.name != planned.placebo]
        specs = {arm.name: RunSpec.model_validate(arm.spec) for arm in arms}
        if self.device == "cpu":
            torch.set_num_threads(1)
        rounds = track(race(specs, device=self.device), "timed in turn", ROUNDS, console=self.console)
        laps = [lap for each in rounds for lap in each]
        write_timings(self.folder, laps, provenance(self.device, 1, "auto"))

    # ----------------------------------------------------------------------------------- report

    def finish(self, planned: Plan, called: list[runs.PlannedRun]) -> None:
        from ablate.study.results import collect, write

        found = frozen(self.folder)
        results = collect(
            planned,
            called,
            self.store,
            name=self.folder.name,
            frozen=found,
            amendments=amendments(found, self.file, planned) if found else (),
            notes=self.notes,
            code=self.code,
        )
        write(results, self.folder)
        self.report()
        waiting = [run for run in called if not self.has_outcome(run)]
        if waiting:
            log = self.store.folder(waiting[0].id) / "log"
            fail(
                f"{len(waiting)} runs are missing; run this again to resume (one has its log in {log})",
                FAILED,
            )
        metric = planned.study.metric
        ended = results.runs[(results.runs["role"] == "test") & (results.runs["status"] == "finished")]
        if metric not in OF_SEVERAL and (metric not in ended or ended[metric].isna().any()):
            fail(f"runs have finished without {metric}: see above, or name a number that they have", FAILED)

    def report(self) -> None:
        """From the results file alone."""
        from ablate.study.report.render import report, show

        report(self.folder)
        show(self.console, self.folder)
        self.console.print(str(self.folder / "report.html"))
        if self.node["wandb"]["report"]:
            from ablate.study.report.dashboard import publish

            wandb = self.node["wandb"]
            published = publish(self.folder, wandb["project"], wandb["entity"], Path(self.node["store"]))
            for line in published.said:
                self.console.print(Text(line), soft_wrap=True)  # an address stays whole


def asked(study: Study) -> list[str]:
    """The numbers of single runs that a study speaks of."""
    return [study.metric, *study.measures, *of_runs(study.claims)]


def compiling_gain(payload: dict[str, Any]) -> Any:
    from ablate.train.speed.compile_gain import Compiled, compiled

    (found,) = apart(compiled, [payload], lambda reason: Compiled(reason=reason))
    return found


def at_once(wish: Any) -> int:
    """The most runs to be trained as one; 1 is none. Raises Mistaken."""
    if wish == "auto":
        return AT_ONCE
    if wish == "off" or wish is False:  # as YAML reads off
        return 1
    if isinstance(wish, int) and wish > 1:
        return wish
    raise Mistaken([f"replicas: auto, off, or the most runs to be trained as one (2 or more), not {wish!r}"])


def told(run: runs.PlannedRun) -> str:
    """The rate and the budget of a run, where they are of the study's making."""
    rate = "" if run.rate is None else f" rate {run.rate:g}"
    return rate if run.budget == 1 else f"{rate} budget x{run.budget:g}"
