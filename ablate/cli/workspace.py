"""The place in which a study runs: its texts, its sources, its finished runs, the slots of the machine."""

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ablate.cli.composer import Composer
from ablate.cli.isolated import in_subprocess
from ablate.cli.mirrors import NO_LOGGER
from ablate.cli.options import SweepOptions
from ablate.data.prepare import Prepared, prepare
from ablate.engine import slots
from ablate.engine.store import Store
from ablate.record import RunSummary
from ablate.spec import DataSpec, RunSpec, digest
from ablate.study.design import runs
from ablate.study.design.compile_policy import CompileGain
from ablate.study.design.planned import Facts
from ablate.train.request import RunRequest
from ablate.train.settings import LoggerSpec, Settings


class Workspace:
    """The `Backend` of a study on this machine, and the store of its runs."""

    def __init__(self, options: SweepOptions, groups: Sequence[str] = ()) -> None:
        self.options = options
        self.device = options.device
        self.store = Store(options.runs)
        self.composer = Composer(options.cache, groups)
        self._texts: dict[str, Prepared] = {}
        self._hashes: dict[tuple[str, str], str] = {}

    def compose(self, overrides: list[str]) -> dict[str, Any]:
        return self.composer(overrides)

    def check(self, spec: dict[str, Any]) -> Facts:
        return self._checker(spec)

    @cached_property
    def _checker(self) -> Callable[[dict[str, Any]], Facts]:
        from ablate.cli.check import checker

        return checker(self.options.cache, self.device)

    def text(self, data: DataSpec) -> Prepared:
        """The prepared text, asked for once: a source on the network answers slowly."""
        key = digest(data.model_dump(mode="json"))
        if key not in self._texts:
            self._texts[key] = prepare(data, self.options.cache)
        return self._texts[key]

    def identify(self, spec: dict[str, Any]) -> dict[str, Any]:
        whole = RunSpec.model_validate(spec)
        return whole.canonical(self.text(whole.data).fingerprint)

    def source_hash(self, run: runs.PlannedRun) -> str:
        """The hash of the sources of an arm, which its seeds and rates share."""
        from ablate.train.state.source_hash import source_hash

        arm = (run.corpus, run.arm)
        if arm not in self._hashes:
            self._hashes[arm] = source_hash(RunSpec.model_validate(run.spec))
        return self._hashes[arm]

    def outcomes(self, wanted: Sequence[runs.PlannedRun]) -> Any:
        return runs.tidy(wanted, self.store.summary)

    def summary(self, run: runs.PlannedRun) -> RunSummary | None:
        return self.store.summary(run.id)

    def has_outcome(self, run: runs.PlannedRun) -> bool:
        """Whether a run has an outcome: from the sources of today, or from any where stale runs are kept."""
        return self.store.finished(run.id, None if self.options.stale == "keep" else self.source_hash(run))

    def drop_branches(self, called: Sequence[runs.PlannedRun]) -> None:
        """Remove the states that runs have left, once all that branch off them have an outcome."""
        from ablate.train.state.branch import BRANCHES

        waiting = {run.stem for run in called if run.stem and not self.has_outcome(run)}
        for stem in {run.stem for run in called if run.stem} - waiting:
            shutil.rmtree(self.store.folder(stem) / BRANCHES, ignore_errors=True)

    def probe(self, spec: RunSpec) -> float:
        from ablate.cli.check import probe

        return probe(spec)

    def compile_gain(self, spec: dict[str, Any]) -> CompileGain:
        from ablate.train.speed.compile_gain import Compiled, compile_gain

        payload = self.request(spec).payload()
        (gain,) = in_subprocess(compile_gain, [payload], lambda reason: Compiled(reason=reason))
        return gain

    @cached_property
    def slots(self) -> list[slots.Slot]:
        """The places on this machine for runs side by side; with another engine, for scoring."""
        if self.options.gpus and self.options.engine == "local":
            return slots.gpu_slots(each=self.options.per_gpu)
        return slots.cpu_slots(self.options.slots)

    @property
    def parallel(self) -> int:
        """The runs at a time, as far as that is known beforehand."""
        if self.options.engine == "slurm":
            return self.options.slots or self.options.slurm.parallel
        return len(self.slots)

    def request(
        self,
        spec: dict[str, Any],
        measures: Sequence[str] = (),
        logger: LoggerSpec = NO_LOGGER,
    ) -> RunRequest:
        """The request to train a run of this study, not compiled."""
        options = self.options
        settings = Settings.model_validate(
            {
                "accelerator": "gpu" if options.gpus else "cpu",
                "devices": options.devices,
                "strategy": options.strategy,
                "threads": None if options.gpus else 1,
                "keep": options.keep,
                "progress": False,
                "logger": logger,
            }
        )
        return RunRequest(
            spec=RunSpec.model_validate(spec),
            settings=settings,
            runs=options.runs,
            cache=options.cache,
            parts=tuple(self.composer.parts),
            measures=tuple(measures),
        )
