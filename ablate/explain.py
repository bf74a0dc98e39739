"""What is wrong with an input, in a line for each mistake: pydantic's errors in words of this project."""

import re
from itertools import groupby
from typing import Any

from pydantic import ValidationError

PLAINLY = {  # what pydantic says in words of Python's
    "tuple_type": "Input should be a list: [a, b]",
    "dict_type": "Input should be a mapping: {name: value}",
    "model_type": "Input should be a mapping: {name: value}",
}
# How pydantic marks, at the end of a path, which of several types it has tried.
TRIED = re.compile(r"(constrained-)?(int|float|str|bool)|(literal|list|tuple|dict)\[.*\]")
SHOULD = "Input should be "


def mistakes(error: ValidationError) -> list[Any]:
    """As pydantic's `errors()`, but one where a value is none of several types."""
    found: list[Any] = []
    for tried, together in groupby(error.errors(), lambda e: _tried(e["loc"])):
        same = list(together)
        if tried is None or len(same) == 1:
            found += same
            continue
        wishes = dict.fromkeys(e["msg"].removeprefix(SHOULD) for e in same)
        value = same[0]["input"]
        whole = isinstance(value, float) and value.is_integer() and any(e["type"] == "int_type" for e in same)
        hint = f"; as an integer it is {value:.0f}" if whole else ""
        found.append(
            {**same[0], "loc": tried, "type": "value", "msg": f"{SHOULD}{', or '.join(wishes)}{hint}"}
        )
    return found


def _tried(path: tuple[int | str, ...]) -> tuple[int | str, ...] | None:
    """The path without the mark of the type that was tried; None where there is none."""
    return path[:-1] if path and isinstance(path[-1], str) and TRIED.fullmatch(path[-1]) else None


def explain(error: ValidationError) -> list[str]:
    """Every mistake in one line each: `path: what is wrong (value); what is allowed`."""
    return [line for e in mistakes(error) for line in _lines(e)]


def _lines(e: Any) -> list[str]:
    """The lines of one error: several where one rule has several mistakes, each after the path."""
    first, *others = _line(e).splitlines()
    path = ".".join(str(p).replace("\n", "\\n") for p in e["loc"])
    return [first, *(f"{path}: {line}" if path else line for line in others)]


def _line(e: Any) -> str:
    path = ".".join(str(p).replace("\n", "\\n") for p in e["loc"])
    if e["type"] == "extra_forbidden":
        return f"{path}: unknown option"
    if e["type"] == "missing":
        return f"{path}: missing"
    value = repr(e["input"])
    if path.endswith("[key]") and e["type"] == "string_type":
        return f"{path.removesuffix('.[key]')}: YAML reads this name as {value}; put it in double quotes"
    if e["type"] == "string_type" and isinstance(e["input"], bool | int | float):
        return f"{path}: YAML reads this as {value}, and not as text; put it in double quotes"
    if e["type"] in PLAINLY:
        return f"{path}: {PLAINLY[e['type']]} (got {value[:60]})"
    shown = "" if len(value) > 60 or e["type"] in ("value_error", "part") else f" (got {value})"
    return f"{path + ': ' if path else ''}{e['msg'].removeprefix('Value error, ')}{shown}"
