"""From a composed configuration to a run: gates 1 and 2, and the seam between what decides the numbers of a
run (`RunSpec`) and what does not (`Settings` and where things are kept)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from ablate.data.prepare import Prepared, prepare
from ablate.registry import load_parts
from ablate.spec import DataSpec, RunSpec, explain
from ablate.train.settings import Settings
from ablate.train.start import started


class Mistaken(Exception):
    """A configuration that is wrong: every mistake, one a line."""

    def __init__(self, mistakes: list[str]):
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class Job:
    """A run that is ready to start."""

    spec: RunSpec
    prepared: Prepared
    settings: Settings
    rest: dict[str, Any]  # plan, rerun, start, runs, sample, ...

    @property
    def runs(self) -> Path:
        return Path(self.rest["runs"])

    @property
    def start(self) -> Path | None:
        return Path(self.rest["start"]) if self.rest["start"] else None

    @property
    def id(self) -> str:
        return self.spec.id(self.prepared.fingerprint)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data. Raises Mistaken where a mandatory value is missing."""
    try:
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise Mistaken([f"{key}: missing; give it on the command line" for key in sorted(missing)])
        node = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise Mistaken([str(error).splitlines()[0]]) from None
    assert isinstance(node, dict)
    return {str(k): v for k, v in node.items()}


def job(config: DictConfig | dict[str, Any]) -> Job:
    """Raises Mistaken with all that is wrong, before anything is trained."""
    node = plain(config) if isinstance(config, DictConfig | ListConfig) else dict(config)
    try:
        load_parts(node["parts"])
    except (ImportError, SyntaxError) as error:
        raise Mistaken([f"parts: {error}"]) from error
    decides = {k: node.pop(k) for k in RunSpec.model_fields if k in node}
    chosen = {k: node.pop(k) for k in Settings.model_fields if k in node}
    chosen |= node.pop("trainer")
    mistakes: list[str] = []
    settings = _validated(Settings, chosen, mistakes, "trainer")
    data = _validated(DataSpec, decides["data"], mistakes, "data")
    if settings is None or data is None:
        _validated(RunSpec, decides, mistakes)
        raise Mistaken(list(dict.fromkeys(mistakes)))
    if _validated(RunSpec, decides, mistakes) is None:
        raise Mistaken(mistakes)
    prepared = prepare(data, Path(node["cache"]))
    model = decides["model"]
    if model.get("vocab") is None:
        model = {**model, "vocab": prepared.vocab}
    elif model["vocab"] < prepared.vocab:
        raise Mistaken([f"model.vocab: {model['vocab']} is less than the tokenizer's {prepared.vocab}"])
    spec = _validated(RunSpec, {**decides, "model": model}, mistakes)
    if spec is None:
        raise Mistaken(mistakes)
    if node["start"]:
        try:
            spec = started(spec, prepared, Path(node["start"]))
        except (ValueError, FileNotFoundError) as error:
            raise Mistaken([f"start: {error}"]) from None
    return Job(spec, prepared, settings, node)


def _validated(schema: type[Any], node: Any, mistakes: list[str], path: str = "") -> Any:
    """The validated node, or None with what is wrong added to `mistakes`."""
    assert issubclass(schema, BaseModel)
    try:
        return schema.model_validate(node)
    except ValidationError as error:
        mistakes += [f"{path}.{line}" if path else line for line in explain(error)]
        return None
