"""From a composed configuration to a run that is ready to start, its data prepared. Every mistake is named
before anything is built.

Here is the seam between what decides the numbers of a run (`RunSpec`) and what does not: `Settings`, and
`Rest`, which says where things are kept and what is shown.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, FiniteFloat, StrictBool, ValidationError

from ablate.cli.hints import hinted
from ablate.cli.options import not_folders
from ablate.cli.refused import refused
from ablate.data.prepare import Prepared, prepare
from ablate.errors import AblateError, system_error
from ablate.explain import explain
from ablate.registry import load_parts
from ablate.spec import DataSpec, RunSpec, Strict
from ablate.train.observers import PROFILERS, ObserverError, Target, make_callbacks, target_name
from ablate.train.request import RunRequest
from ablate.train.settings import (
    Settings,
    accelerator,
    devices,
    elsewhere_launched,
    too_many,
    torch_device,
)

if TYPE_CHECKING:
    from ablate.cli.estimate import RunDesign

Objective = Literal[
    "validation/loss",
    "validation/perplexity",
    "validation/bits_per_byte",
    "validation/macro/loss",
    "validation/macro/perplexity",
    "validation/macro/bits_per_byte",
]
OBJECTIVE: Objective = "validation/loss"
MOST_SAMPLED = 100_000  # tokens of the text that is shown at the end
BESIDE = ("keep", "logger")  # the settings that stand beside `trainer` in conf/train.yaml, not in it


class ConfigError(AblateError):
    """Raised for a wrong configuration, with a line for each mistake."""

    def __init__(self, mistakes: list[str]):
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Sample(Strict):
    """The text that a run prints when it has ended."""

    prompt: str
    tokens: int = Field(ge=0, le=MOST_SAMPLED)
    temperature: FiniteFloat = Field(0.0, ge=0)
    top_k: int | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=1 << 63)


class Rest(Strict):
    """The options of train.py that are neither in `RunSpec` nor in `Settings`; see conf/train.yaml."""

    parts: tuple[str, ...]
    init_from: Path | None
    plan: StrictBool
    rerun: StrictBool
    callbacks: tuple[Target, ...] = ()
    profiler: Target | None = None
    runs: Path
    cache: Path
    objective: Objective = OBJECTIVE
    sample: Sample


@dataclass(frozen=True)
class TrainJob:
    """A run that is ready to start."""

    spec: RunSpec
    prepared: Prepared
    settings: Settings
    rest: Rest

    @property
    def runs(self) -> Path:
        return self.rest.runs

    @property
    def id(self) -> str:
        return self.spec.id(self.prepared.fingerprint)

    @cached_property
    def design(self) -> "RunDesign":
        """The costs and the kernel, counted once, when first asked. Raises IncompatibleParts where the parts
        cannot work together."""
        from ablate.cli.estimate import design_run

        return design_run(self.spec, torch_device(self.settings))

    def request(self, outbox: Path | None = None) -> RunRequest:
        """The request to train this run; its record goes to `outbox` of its lease (null: runs/<id>)."""
        return RunRequest(
            spec=self.spec,
            settings=self.settings,
            runs=self.rest.runs,
            cache=self.rest.cache,
            parts=self.rest.parts,
            start=self.rest.init_from,
            counts=asdict(self.design.costs),
            rerun=self.rest.rerun,
            callbacks=self.rest.callbacks,
            profiler=self.rest.profiler,
            outbox=outbox,
            claim=outbox,
        )


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Convert a configuration to plain data. Raises ConfigError where a mandatory value is missing."""
    try:
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise ConfigError([f"{key}: missing; give it on the command line" for key in sorted(missing)])
        node = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([refused(error)]) from None
    assert isinstance(node, dict)
    return {str(k): v for k, v in node.items()}


def job(config: DictConfig | dict[str, Any]) -> TrainJob:
    """Validate a configuration, prepare its data, and check that both fit together. Raises ConfigError with
    all mistakes."""
    from ablate.data.blend import refuse_text

    node = plain_config(config) if isinstance(config, DictConfig | ListConfig) else dict(config)
    decides = {k: node.pop(k) for k in RunSpec.model_fields if k in node}
    chosen = node.pop("trainer", {})
    mistakes = [f"trainer.{name}: unknown option" for name in BESIDE if name in chosen]
    chosen = chosen | {name: node.pop(name) for name in BESIDE if name in node}
    rest = validated(Rest, node, mistakes)
    try:
        load_parts(list(rest.parts) if rest else [])
    except ImportError as error:
        raise ConfigError([f"parts: {error}"]) from error
    taken = isinstance(decides.get("model"), dict) and decides["model"].get("of") == "start"
    if taken and rest is not None:
        decides["model"] = of_start(rest, decides["model"])
    of_settings: list[str] = []
    settings = validated(Settings, chosen, of_settings)
    mistakes += [line if line.startswith(BESIDE) else f"trainer.{line}" for line in of_settings]
    data = validated(DataSpec, decides.get("data", {}), mistakes, "data")
    spec = validated(RunSpec, decides, mistakes)
    if rest is None or settings is None or data is None or spec is None:
        raise ConfigError(hinted(dict.fromkeys(mistakes)))
    mistakes += misplaced(spec, settings, rest)
    if mistakes:
        raise ConfigError(mistakes)
    prepared = prepare(data, rest.cache)
    vocab = spec.model.vocab or prepared.vocab
    if vocab < prepared.vocab:
        raise ConfigError([f"model.vocab: {vocab} is less than the tokenizer's {prepared.vocab}"])
    spec = validated(RunSpec, {**decides, "model": {**decides["model"], "vocab": vocab}}, mistakes)
    if spec is None:
        raise ConfigError(mistakes)
    try:
        refuse_text(prepared, spec)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    if rest.init_from:
        from ablate.train.state.warm_start import refuse_another_model, started

        try:
            if not taken:
                refuse_another_model(spec.model, rest.init_from)
            spec = started(spec, prepared, rest.init_from)
        except (ValueError, OSError) as error:
            raise ConfigError([f"init_from: {_said(error)}"]) from None
    return TrainJob(spec, prepared, settings, rest)


def of_start(rest: Rest, model: dict[str, Any]) -> dict[str, Any]:
    """For `model=started`: the model in `init_from`, with what else is said of it. Raises ConfigError."""
    if not rest.init_from:
        raise ConfigError(["model=started: takes the model from init_from; give init_from=FOLDER"])
    from ablate.train.state.warm_start import started_model

    try:
        return started_model(rest.init_from, {key: value for key, value in model.items() if key != "of"})
    except (ValueError, OSError) as error:
        raise ConfigError([f"init_from: {_said(error)}"]) from None


def _said(error: ValueError | OSError) -> str:
    return system_error(error) if isinstance(error, OSError) and error.errno else str(error)


def misplaced(spec: RunSpec, settings: Settings, rest: Rest) -> Iterator[str]:
    """Yield the mistakes of a run whose fields are valid each, but not together or not on this machine."""
    import torch

    from ablate.data.stream import share
    from ablate.train.speed.cuda_graph import NO_GRAPHS

    yield from not_folders(runs=rest.runs, cache=rest.cache)
    if spec.parent is not None and not rest.init_from:
        yield "parent: cannot be set directly; use init_from=runs/<id>"
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        yield "trainer.accelerator: torch finds no GPU on this machine; use trainer=cpu or trainer=auto"
        return
    if settings.cuda_graph is True and accelerator(settings) == "cpu":
        yield f"trainer.cuda_graph: {NO_GRAPHS}; use trainer.cuda_graph=auto"
    try:
        make_callbacks(rest.callbacks)
        if rest.profiler is not None and rest.profiler not in PROFILERS:
            target_name(rest.profiler)
    except ObserverError as error:
        yield f"{error}"
    if (reason := too_many(settings.threads)) is not None:
        yield reason
    if settings.nodes > 1 and not elsewhere_launched():
        yield f"trainer.nodes: start all ranks of the {settings.nodes} machines with torchrun"
    try:
        share(spec.rows, (0, devices(settings) * settings.nodes))
    except ValueError as error:
        yield f"trainer.devices: {error}"


def validated(schema: type[Any], node: Any, mistakes: list[str], path: str = "") -> Any:
    """Validate a node. Returns None, and adds to `mistakes` (each below `path`), where it is wrong."""
    assert issubclass(schema, BaseModel)
    try:
        return schema.model_validate(node)
    except ValidationError as error:
        mistakes += [f"{path}.{line}" if path else line for line in explain(error)]
        return None
