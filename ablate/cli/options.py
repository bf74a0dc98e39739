"""The options of `python sweep.py`: conf/sweep.yaml, validated before anything runs."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from ablate.spec import Strict
from ablate.train.settings import Keep, Strategy

MOST_SLOTS = 1024  # runs side by side on one machine
TOGETHER = 8  # runs of an ensemble at most, where `ensemble=auto`
Tracker = Literal["none", "csv", "tensorboard", "wandb", "trackio"]
LIBRARIES = {  # optional ones, with their extras
    "slurm": ("submitit", "slurm"),
    "ray": ("ray", "ray"),
    "trackio": ("trackio", "trackio"),
    "tensorboard": ("tensorboard", "tensorboard"),
}
INSTEAD = ("plan", "freeze", "report", "timing", "samples", "pack")  # done instead of running a study


def not_folders(**folders: Path) -> Iterator[str]:
    """Yield a mistake for each option whose path is there and is no folder."""
    for name, path in folders.items():
        if path.exists() and not path.is_dir():
            yield f"{name}: {path} is a file where a folder is needed; name a folder"


class WandbOptions(Strict):
    """What of a study is mirrored at Weights & Biases."""

    mirror: StrictBool
    report: StrictBool
    project: str
    entity: str | None


class SlurmOptions(Strict):
    """Cluster jobs of `engine=slurm`."""

    partition: str | None
    minutes: int = Field(gt=0)  # the wall clock of a cluster job
    warning: int = Field(gt=0)  # seconds before it at which runs stop and the job queues itself again
    cpus: int | None = Field(gt=0)  # of a job; null: one for each device
    parallel: int = Field(gt=0)  # jobs at a time
    together: int = Field(gt=0)  # runs that a job does one after another
    executor: Literal["slurm", "local"]  # local: the same jobs on this machine, to try it
    parameters: dict[str, str | int | float | bool | None]  # more of submitit's: {slurm_account: me}


class RayOptions(Strict):
    """The cluster of `engine=ray`."""

    address: str | None  # auto, or host:port; null: a local one is started
    cpus: float | None = Field(gt=0)  # of a run; null: one for each device


class SweepOptions(Strict):
    """The options of sweep.py."""

    experiment: str | None
    experiments: Path
    compare: str | None
    plan: StrictBool
    freeze: StrictBool
    report: StrictBool
    timing: StrictBool
    samples: StrictBool
    pack: StrictBool
    measure: tuple[str, ...]
    runs: Path
    cache: Path
    keep: Keep
    slots: int | None = Field(gt=0, le=MOST_SLOTS)
    gpus: StrictBool
    per_gpu: int = Field(gt=0)
    devices: int = Field(gt=0)
    strategy: Strategy
    compile: Literal["auto"] | StrictBool
    retries: int = Field(ge=0)
    stale: Literal["rerun", "keep"]
    ensemble: Literal["auto", "off"] | StrictInt
    logger: Tracker
    engine: Literal["local", "slurm", "ray"]
    slurm: SlurmOptions
    ray: RayOptions
    wandb: WandbOptions

    @field_validator("compile", mode="before")
    @classmethod
    def _compile(cls, value: Any) -> Any:
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"auto, true or false, not {value!r}")
        return value

    @field_validator("ensemble", mode="before")
    @classmethod
    def _ensemble(cls, value: Any) -> Any:
        if value is False:  # as YAML reads off
            return "off"
        if value in ("auto", "off") or (isinstance(value, int) and value > 1 and value is not True):
            return value
        raise ValueError(f"auto, off, or the most runs to be trained as one (2 or more), not {value!r}")

    @model_validator(mode="after")
    def _consistent(self) -> "SweepOptions":
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        chosen = [name for name in INSTEAD if getattr(self, name)]
        if len(chosen) > 1:
            both = " and ".join(f"{name}=true" for name in chosen)
            yield f"{both} exclude each other: each is done instead of running the study; give one of them"
        if self.compare is not None:
            beside = [*(["experiment"] if self.experiment else []), *chosen]
            if beside:
                yield f"compare: compares any finished runs, without {', '.join(beside)}; give one of them"
        elif self.experiment is None:
            yield (
                f"experiment: give the name of a folder in {self.experiments}/, "
                f"or compare='{self.runs}/*' to compare finished runs"
            )
        if self.engine != "local" and self.ensemble != "off":
            yield f"ensemble: only the local engine joins runs; engine={self.engine} needs ensemble=off"
        for option, name in (("engine", self.engine), ("logger", self.tracker)):
            module, extra = LIBRARIES.get(name, ("", ""))
            if module and find_spec(module) is None:
                yield f"{option}: {name} needs {module}: pip install -e '.[{extra}]' (in the repository)"
        if self.wandb.mirror and self.logger not in ("none", "wandb"):
            yield f"logger: {self.logger} and wandb.mirror=true are two mirrors; give one of them"
        yield from not_folders(runs=self.runs, cache=self.cache, experiments=self.experiments)
        if any(sign in str(self.runs) for sign in "*?["):
            yield f"runs: is the folder of all runs; to compare some of them, use compare='{self.runs}'"

    @property
    def tracker(self) -> Tracker:
        """Where the runs are mirrored; `wandb.mirror=true` is another way to say `logger=wandb`."""
        return "wandb" if self.wandb.mirror else self.logger

    @property
    def together(self) -> int:
        """The most runs to be trained as one; 1 is none."""
        if self.ensemble == "auto":
            return TOGETHER
        return 1 if self.ensemble == "off" else self.ensemble

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpus else "cpu"

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return self.experiments / str(self.experiment)

    @property
    def records(self) -> Path:
        """The folder of the packed records of the study's runs."""
        return self.folder / "records"

    @property
    def file(self) -> Path:
        return self.folder / "study.yaml"
