"""docs/parts.md, written from the registries: `python -m ablate parts > docs/parts.md`."""

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic.fields import FieldInfo

from ablate.paths import CONF, GROUPS
from ablate.registry import Entry, Options, Part, registries

HEADER = """# Parts

Written by `python -m ablate parts > docs/parts.md`; a test keeps it current. What goes with what:
[compatibility.md](compatibility.md). How to add a part of your own: [interfaces.md](interfaces.md).

Out of scope:

- Encoder-only models (BERT): their objective is another, so their losses compare with nothing here.
- Encoder-decoder models (T5 whole): two stacks and cross-attention. With `attention.mask=prefix` a decoder
  reads its input in both directions.
- Serving with paged attention and continuous batching: `python -m ablate export`, and serve elsewhere.
"""

SYMBOLS: dict[type, tuple[str, str]] = {
    annotated_types.Gt: (">", "gt"),
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Lt: ("<", "lt"),
    annotated_types.Le: ("<=", "le"),
    annotated_types.MultipleOf: ("a multiple of", "multiple_of"),
}


def catalogue() -> str:
    """The page: every registered part, with its formula, its source, its options and its YAMLs."""
    sections = [HEADER]
    for kind, registry in registries.items():
        sections.append(f"## {kind}\n")
        sections += [_section(registry[name]) for name in registry]
    return "\n".join(sections)


def _section(entry: Entry) -> str:
    text = [
        f"### {entry.kind}: {entry.name}\n",
        _escaped(_meaning(entry)) + "\n",
        _source(entry) + "\n",
    ]
    options = list(_options(entry.options))
    if options:
        text.append("\n".join(["| option | takes | default |", "|---|---|---|", *options]) + "\n")
    return "\n".join(text)


def _meaning(entry: Entry) -> str:
    """The docstring, a line for each paragraph."""
    paragraphs = (inspect.getdoc(entry.make) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _source(entry: Entry) -> str:
    paper = entry.paper
    if paper.startswith("arXiv:"):
        link = f"From [{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})."
    elif paper.startswith("https://"):
        link = f"From <{paper}>."
    else:
        link = f"From: {_escaped(paper)}."
    names = ", ".join(f"`{name}`" for name in files(entry))
    return f"{link} YAML: {names}." if names else link


def files(entry: Entry) -> list[str]:
    """The YAMLs that name the entry, its presets included."""
    folder = GROUPS.get(entry.kind)
    if folder is None:
        return []
    return sorted(
        path.stem for path in (CONF / folder).glob("*.yaml") if _named(path, entry.kind) == entry.name
    )


def _named(path: Path, kind: str) -> str | None:
    """The part that a YAML names: itself, in a section called by the kind (a data set its source), or by
    the YAML that it starts from."""
    node = yaml.safe_load(path.read_text()) or {}
    node = node[kind] if isinstance(node.get(kind), dict) else node
    if isinstance(node.get("name"), str):
        return str(node["name"])
    for start in node.get("defaults", []):
        if isinstance(start, str) and start != "_self_" and (path.parent / f"{start}.yaml").is_file():
            return _named(path.parent / f"{start}.yaml", kind)
    return None


def _options(options: type[Options]) -> Iterator[str]:
    for name, field in options.model_fields.items():
        if name != "name":
            yield f"| `{name}` | {_taken(field)} | {_default(field)} |"


def _taken(field: FieldInfo) -> str:
    return _escaped(_type(field.annotation, list(field.metadata)))


def _type(annotation: Any, facts: list[Any]) -> str:
    parts = [fact.kind for fact in facts if isinstance(fact, Part)]
    if parts:
        return f"{parts[0]} (a part)"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inside[0], [*inside[1:], *facts])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a, facts) for a in inside)
    if origin is Literal:
        return ", ".join(str(a) for a in inside)
    if origin is tuple:
        return f"a list of: {_type(inside[0], facts)}"
    if origin in (list, dict):
        return f"a {origin.__name__} of {', '.join(_type(a, []) for a in inside)}"
    if annotation is type(None):
        return "null"
    bounds = [f"{word} {getattr(fact, attribute)}" for fact in facts for word, attribute in _bounds(fact)]
    names: dict[Any, str] = {int: "integer", float: "number", bool: "true or false", str: "text"}
    name = names.get(annotation) or str(getattr(annotation, "__name__", annotation))
    return " ".join([name, *bounds[:1], *(f"and {bound}" for bound in bounds[1:])])


def _bounds(fact: Any) -> Iterator[tuple[str, str]]:
    if type(fact) in SYMBOLS:
        yield SYMBOLS[type(fact)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if isinstance(value, dict) and "name" in value:
        rest = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
        return f"`{value['name']}`" + (f" ({rest})" if rest else "")
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


def _escaped(text: str) -> str:
    """What Markdown would take for its own, outside of `code`."""
    spans = text.split("`")
    spans[::2] = [re.sub(r"([*_<|\[\]])", r"\\\1", span) for span in spans[::2]]
    return "`".join(spans)
