"""The kinds of values that a study.yaml holds: names, overrides, paths into a run, knobs."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from ablate.errors import printable
from ablate.spec import RunSpec

_SHORT = {  # what a person calls the knob, and where it stands
    "ffn.width": "model.ffn.width",
    "depth": "model.depth",
    "kv_heads": "model.attention.kv_heads",
}
STEPS = "steps"  # the number of optimizer steps, by way of budget.tokens


def alone(node: Any) -> Any:
    """A single string where a list is expected is a list of one."""
    return (node,) if isinstance(node, str) else node


def _overrides(overrides: tuple[str, ...]) -> tuple[str, ...]:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals and not key.startswith("~"):
            raise ValueError(f"{override!r} is no override; write key=value, as on train.py's command line")
        if key.lstrip("+~").split(".")[0] == "seed":
            raise ValueError(f"{override!r}: the study sets the seeds; say seeds: in study.yaml")
    return overrides


def _in_a_run(path: str) -> str:
    """A dotted path into RunSpec; only its first word can be checked before the arms are composed."""
    first = path.split(".")[0]
    if first not in RunSpec.model_fields:
        raise ValueError(f"{path!r} is no part of a run; paths start with {', '.join(RunSpec.model_fields)}")
    return path


def _knob(path: str) -> str:
    path = _SHORT.get(path, path)
    return path if path == STEPS else _in_a_run(path)


def _name(name: str) -> str:
    if len(name) > 100 or printable(name) != name or re.fullmatch(r'[^"\s][^"\n]*', name) is None:
        raise ValueError(
            f"{name[:100]!r} is no name: 1 to 100 printable characters, no quotation marks, no space first"
        )
    return name


Name = Annotated[str, AfterValidator(_name)]
Overrides = Annotated[tuple[str, ...], BeforeValidator(alone), AfterValidator(_overrides)]
Path_ = Annotated[str, AfterValidator(_in_a_run)]
Knob = Annotated[str, AfterValidator(_knob)]
