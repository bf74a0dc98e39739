"""Where the runs of a study are mirrored, and under which names."""

from ablate.cli.options import SweepOptions
from ablate.study.design.runs import PlannedRun
from ablate.train.settings import LoggerSpec

NO_LOGGER = LoggerSpec(config={})


def run_label(run: PlannedRun) -> str:
    """The name of a run for a person, with its rate and budget where the study chose them."""
    rate = "" if run.rate is None else f" rate {run.rate:g}"
    budget = "" if run.budget == 1 else f" budget x{run.budget:g}"
    return f"{run.corpus} {run.arm} seed {run.seed}{rate}{budget}"


def run_logger(options: SweepOptions, run: PlannedRun) -> LoggerSpec:
    """The mirror of a run: the study is its group, its role the job type. Arm and seed are in its name, its
    configuration and its tags; W&B refuses a tag of more than 64 letters and a name of more than 128. In
    Trackio the study is a project."""
    study, wandb = options.folder.name, options.wandb
    if options.tracker == "none":
        return NO_LOGGER
    return LoggerSpec(
        name=options.tracker,
        run_name=f"{study} {run_label(run)}"[:128],
        job_type=run.role,
        project=study if options.tracker == "trackio" else wandb.project,
        entity=wandb.entity,
        group=f"{run.corpus} {run.arm}" if options.tracker == "trackio" else study,
        tags=(f"arm:{run.arm}"[:64], f"seed:{run.seed}", f"role:{run.role}"),
        config={"study": study, "corpus": run.corpus, "arm": run.arm, "seed": run.seed, "role": run.role},
    )
