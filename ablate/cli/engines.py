"""Where the runs of a study are trained: on this machine, under SLURM, or on a Ray cluster."""

from collections.abc import Callable
from typing import Any

from ablate.cli.options import SweepOptions
from ablate.engine.launch import Event, launch
from ablate.engine.ray import RayPool
from ablate.engine.remote import Pool, launch_remote
from ablate.engine.slots import Slot
from ablate.engine.slurm import SlurmPool
from ablate.engine.store import Store
from ablate.engine.worker import Job

WORK, TOGETHER_WORK = "ablate.train.fit:train_work", "ablate.train.speed.ensemble_runs:ensemble_work"
AFTER = "ablate.measure.score:after"


def launch_on_engine(
    options: SweepOptions,
    jobs: list[Job],
    slots: list[Slot],
    most: int,
    store: Store,
    on_event: Callable[[Event], None],
) -> None:
    """Train the runs where the options say. `slots` and `most`, the runs of an ensemble, are the local
    engine's. Raises ImportError where the engine's library is missing, EngineError where it does not
    answer."""
    if options.engine == "local":
        launch(
            jobs,
            slots,
            WORK,
            on_event,
            store=store,
            retries=options.retries,
            together=TOGETHER_WORK,
            most=most,
            after=AFTER,
        )
        return
    pool = make_pool(options, store)
    check = 0.2 if options.slurm.executor == "local" and options.engine == "slurm" else 2.0
    launch_remote(jobs, pool, on_event, store=store, retries=options.retries, check=check)


def make_pool(options: SweepOptions, store: Store) -> Pool:
    """The machines of `engine=slurm` or `engine=ray`."""
    if options.engine == "ray":
        return RayPool(
            store,
            WORK,
            after=AFTER,
            address=options.ray.address,
            cpus=options.ray.cpus or (1 if options.gpus else options.devices),
            gpus=options.devices / options.per_gpu if options.gpus else 0,
            most=options.slots,
        )
    slurm = options.slurm
    return SlurmPool(
        store,
        WORK,
        after=AFTER,
        executor=slurm.executor,
        parallel=options.slots or slurm.parallel,
        together=slurm.together,
        parameters=slurm_parameters(options),
    )


def slurm_parameters(options: SweepOptions) -> dict[str, Any]:
    """What submitit is told: the options by their names there, then what the user passes through."""
    slurm = options.slurm
    named = {
        "slurm_job_name": f"ablate-{options.experiment}",
        "timeout_min": slurm.minutes,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": slurm.cpus or (None if options.gpus else options.devices),
        "gpus_per_node": options.devices if options.gpus else None,
        "slurm_partition": slurm.partition,
        "slurm_signal_delay_s": slurm.warning,
    }
    return {name: value for name, value in named.items() if value is not None} | slurm.parameters
