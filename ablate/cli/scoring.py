"""What is measured on the trained models of a study: which measures, whether they can be computed, and the
computing of those that are missing."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.cli.compose import ConfigError
from ablate.cli.isolated import process_pool
from ablate.cli.mirrors import run_logger
from ablate.cli.options import SweepOptions
from ablate.cli.workspace import Workspace
from ablate.spec import MACRO, RunSpec
from ablate.study.design import runs
from ablate.study.design.claim import of_runs
from ablate.study.design.planned import LOSSES, Plan
from ablate.study.design.study import Study

# The metrics that training itself gives.
OF_TRAINING = (
    *(f"validation/{loss}" for loss in LOSSES),
    *(f"validation/*/{loss}" for loss in LOSSES),
    *("counts/*", "speed/*", "memory/*"),
)
OF_A_SET = re.compile(rf"(?:validation|heldout)/([^/]+)/(?:{'|'.join(LOSSES)})")


def requested_metrics(study: Study) -> list[str]:
    """The metrics of single runs that a study names."""
    return [study.metric, *study.measures, *of_runs(study.claims)]


def requested_measures(study: Study, options: SweepOptions) -> list[str]:
    """The registered measures that give a study's metrics, and those of `measure=`. Raises ConfigError."""
    from ablate.registry import measure

    unknown = [name for name in options.measure if name not in measure]
    if unknown:
        raise ConfigError([f"measure: there is no {', '.join(unknown)}; there are {', '.join(measure)}"])
    names = [*(name.split("/")[0] for name in requested_metrics(study)), *options.measure]
    requested = list(dict.fromkeys(name for name in names if name in measure))
    lacking = [refusal for name in requested if (refusal := lacks_library(measure[name].make, name))]
    if lacking:
        raise ConfigError(lacking)
    return requested


def lacks_library(make: object, name: str) -> str | None:
    """Why a measure cannot be computed here: the optional library that it says it `requires` is missing."""
    module, extra = getattr(make, "requires", (None, None))
    if module is None or find_spec(module) is not None:
        return None
    return f"measure {name}: needs {module}: pip install -e '.[{extra}]' (in the repository)"


def check_measures(study: Study, options: SweepOptions) -> None:
    """Raise ConfigError where a metric of the study is given neither by training nor by a registered
    measure."""
    from ablate.measure import beyond, metrics_of
    from ablate.registry import measure

    known = [*OF_TRAINING, *(pattern for name in measure for pattern in metrics_of(name))]
    unknown = beyond(known, dict.fromkeys(requested_metrics(study)))
    if unknown:
        families = {name.split("/")[0] for name in unknown}
        near = [name for name in known if name.split("/")[0] in families]
        choices = f"there are {', '.join(near or known)}"
        raise ConfigError([f"{name}: no measure gives it; {choices}" for name in unknown])
    if options.keep == "none" and (measures := requested_measures(study, options)):
        raise ConfigError([f"keep=none: {', '.join(measures)} is measured on kept weights; use keep=weights"])


def check_heldout(planned: Plan, workspace: Workspace) -> None:
    """Raise ConfigError where a measure that reads held-out text would find no window of it, or an example
    that is too long."""
    from ablate.data.stream import Stream
    from ablate.measure import reads_heldout
    from ablate.train.texts import texts_of

    measures = requested_measures(planned.study, workspace.options)
    reading = [name for name in measures if reads_heldout(name)]
    for arm in planned.arms if reading else ():
        spec = RunSpec.model_validate(arm.spec)
        texts = texts_of(workspace.text(spec.data), "heldout")
        for split in (*texts.main.values(), *texts.sets.values()):
            if split.loss_mask is not None and "heldout" not in reading:
                continue  # skill reads examples of any length
            try:
                Stream(split, spec.model.context, spec.data.documents, 0, spec.data.prefix)
            except ValueError as error:
                reason = f"arm {arm.name}: {', '.join(reading)} would fail after the runs: {error}"
                raise ConfigError([reason]) from None


def check_sets(planned: Plan) -> None:
    """Raise ConfigError where a metric of the study is of a set that some arm has not."""
    study = planned.study
    metrics = [*requested_metrics(study), *([study.tune.metric] if study.tune else [])]
    for name in dict.fromkeys(metrics):
        asked = OF_A_SET.fullmatch(name)
        for arm in planned.arms if asked else ():
            sets = set_names(arm.spec["data"])
            if asked and asked[1] not in sets:
                there = f"its sets are {', '.join(sets)}" if sets else "it has none; see data.sets"
                raise ConfigError([f"{name}: arm {arm.name} has no set {asked[1]}; {there}"])


def set_names(data: Mapping[str, Any]) -> list[str]:
    """What the sets of a text are called, and their mean."""
    sets = data.get("sets") or data["source"].get("sources") or {}
    return [*sorted(sets), MACRO] if sets else []


def score_missing(
    measures: list[str], called: Iterable[runs.PlannedRun], workspace: Workspace, console: Console
) -> None:
    """Compute what is missing from the stored weights, several runs side by side: for runs of earlier studies
    and of ensembles. Runs that are trained alone are scored where they are trained."""
    if not measures:
        return
    from ablate.measure.score import measure_hashes, missing, score_work

    now = measure_hashes(measures)
    folders, payloads, earlier = [], [], 0
    for run in called:
        done = workspace.summary(run)
        if done is None or done.status != "finished" or not missing(done, now):
            continue
        folder = workspace.store.folder(run.id)
        if set(measures) <= done.measures.keys() and not (folder / "weights").is_dir():
            earlier += 1
            continue
        folders.append(folder)
        logger = run_logger(workspace.options, run)
        payloads.append(workspace.request(run.spec, measures, logger).payload())
    if earlier:
        console.print(f"{earlier} runs keep what an earlier version measured: their weights are not here")
    if not payloads:
        return
    console.print(f"scoring {len(payloads)} runs: {', '.join(measures)}")
    with process_pool(len(workspace.slots)) as pool:
        try:
            for trouble in pool.map(score_work, folders, payloads):
                if trouble:
                    console.print(Text(trouble, style="red"))
        except BrokenProcessPool:
            console.print(
                "a scoring process was killed, perhaps because memory ran out; run this again for the rest "
                "(slots=1 takes the least memory)",
                style="red",
            )
