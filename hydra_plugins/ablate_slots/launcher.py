"""A Hydra launcher that gives the jobs of `-m` to `ablate.engine.launch`: its slots, leases and records.

    python train.py -m hydra/launcher=slots model/norm=layernorm,rmsnorm seed=0,1

Hydra imports this file at every start, so it imports nothing heavy. Three functions, named in the launcher's
options, connect it to what is run:

    prepare(config, overrides) -> dict    id and code of the run, with spec, fingerprint and devices where
                                          known: the fields of `Job` apart from its payload; ValueError for
                                          a config that is refused
    work(payload)                         payload = {"overrides": [...], "config": {...}, "outbox": folder}
    objective(config, record) -> float    the value of a run, for sweepers that search

Every config is prepared, and all refusals are shown, before the first run begins.
"""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


@dataclass
class SlotsOptions:
    _target_: str = "hydra_plugins.ablate_slots.launcher.SlotsLauncher"
    slots: int | None = None  # runs side by side on the CPU; null: one for each core
    gpus: bool = False  # on all GPUs that are visible instead
    per_gpu: int = 1
    runs: str = "${oc.select:runs,runs}"  # the store: where the runs are kept
    retries: int = 1
    grace: float = 30.0
    work: str = "ablate.cli.train:train_in_slot"
    prepare: str = "ablate.cli.train:slot_job"
    objective: str = "ablate.cli.train:slot_objective"


ConfigStore.instance().store(group="hydra/launcher", name="slots", node=SlotsOptions, provider="ablate")


class SlotsLauncher(Launcher):
    def __init__(self, **options: Any):
        self.options = SlotsOptions(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # The task function is not called: it belongs to this process, and the work is done in others.
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from ablate.cli.exits import stopping
        from ablate.engine.launch import EngineError, Event, launch
        from ablate.engine.slots import cpu_slots, gpu_slots
        from ablate.engine.store import MISSING, Store
        from ablate.engine.view import View
        from ablate.engine.worker import Job, function

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        prepare, objective = function(self.options.prepare), function(self.options.objective)
        jobs: list[Job] = []
        composed: list[DictConfig] = []
        refused: list[str] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config, plain = self.compose(list(overrides), number)
            composed.append(config)
            try:
                known = prepare(plain, list(overrides))
                jobs.append(Job(payload={"overrides": list(overrides), "config": plain}, **known))
            except ValueError as error:
                refused.append(f"{' '.join(overrides)}: {error}")
        if refused:
            raise SystemExit(
                "\n".join([f"{len(refused)} of {len(job_overrides)} runs are refused", *refused])
            )

        names = {job.id: " ".join(overrides) for job, overrides in zip(jobs, job_overrides, strict=True)}
        store = Store(Path(self.options.runs))
        last: dict[str, Event] = {}  # by run; the record may be one from before, which a crash leaves

        def hear(event: Event) -> None:
            last[event.id] = event
            view(event)

        try:
            gpus, per_gpu = self.options.gpus, self.options.per_gpu
            slots = gpu_slots(each=per_gpu) if gpus else cpu_slots(self.options.slots)
            with stopping(), View(len(names), len(slots), name=lambda id: f"{id}  {names[id]}") as view:
                launch(
                    jobs,
                    slots,
                    self.options.work,
                    hear,
                    store=store,
                    retries=self.options.retries,
                    grace=self.options.grace,
                )
        except (EngineError, ValueError) as error:
            raise SystemExit(str(error)) from None
        returned = []
        for job, overrides, config in zip(jobs, job_overrides, composed, strict=True):
            ended = last[job.id]
            fine = ended.status not in MISSING
            result = JobReturn(
                overrides=list(overrides),
                cfg=config,
                hydra_cfg=OmegaConf.masked_copy(config, "hydra"),
                working_dir=str(store.folder(job.id)),
                task_name=config.hydra.job.name,
                status=JobStatus.COMPLETED if fine else JobStatus.FAILED,
            )
            why = f"run {job.id} ({names[job.id]}) {ended.status}: {ended.reason}"
            plain = dict(job.payload["config"])
            result.return_value = objective(plain, store.load(job.id)) if fine else RuntimeError(why)
            returned.append(result)
        return returned

    def compose(self, overrides: list[str], number: int) -> tuple[DictConfig, dict[str, Any]]:
        """One job's whole config, and the part below `hydra` resolved to plain data."""
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        HydraConfig.instance().set_config(config)  # for ${hydra:...}
        task = deepcopy(config)
        OmegaConf.set_readonly(task, False)
        with open_dict(task):
            del task["hydra"]
        plain = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
        assert isinstance(plain, dict)
        return config, {str(key): value for key, value in plain.items()}
