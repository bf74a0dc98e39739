"""The text of the file: what is reached, module by module, under names that do not clash."""

import ast
import builtins
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from ablate.model.hf.code.pruned import Extent, Pruned, extent_of, in_annotations, last
from ablate.model.hf.code.reach import Reached
from ablate.model.hf.code.sources import Definition, Import, Module
from ablate.model.hf.family import ExportError

ANY = Import("typing", "Any", "Any")
FOR_CHECKERS = ("# type: ignore", "# noqa")
LINE_WIDTH = 110


class Edit(NamedTuple):
    """Characters of a module, from the first up to the last, and what stands in their place."""

    start: int
    end: int
    text: str


def write_file(reached: Reached, about: str) -> str:
    """The whole file. `about` is what its first lines say."""
    names = final_names(reached)
    sections = []
    for module in reached.modules():
        text, short = f"# {f' {module.title} ':-^{LINE_WIDTH - 2}}", False
        for statement, kept in reached.of_module(module):
            before, short = short, isinstance(statement, ast.Assign | ast.AnnAssign)
            text += "\n" if before and short else "\n\n\n"
            text += _piece(module, statement, kept, reached, names)
        sections.append(text)
    imports = "\n".join(import_lines([*reached.imports, ANY], names))
    body = "\n\n\n".join(sections)
    return f'"""{about}"""\n\nfrom __future__ import annotations\n\n{imports}\n\n{body}\n'


def final_names(reached: Reached) -> dict[Definition | Import, str]:
    """A name for each definition and import: its own, or with its module's before it where that is taken."""
    names: dict[Definition | Import, str] = {}
    taken: dict[str, Definition | Import] = {}
    for found in [ANY, *reached.imports]:
        key = Import(found.name, None, found.name) if _dotted(found) else found
        if taken.setdefault(found.name, key) == key:
            names[found] = found.name
        else:
            names[found] = f"{found.module.replace('.', '_')}_{found.name}"
    order = {module.name: n for n, module in enumerate(reached.modules())}
    places = {each: (order[each.module], reached.statement(each).lineno) for each in reached.definitions}
    for each in sorted(places, key=lambda each: places[each]):
        name = each.name
        if name in taken or hasattr(builtins, name):
            stem = reached.sources.module(each.module).file.stem
            name = f"{stem}_{name.lstrip('_')}"
        while name in taken:
            name += "_"
        names[each] = name
        taken[name] = each
    return names


def import_lines(imports: list[Import], names: dict[Definition | Import, str]) -> Iterator[str]:
    """Python's own modules first."""
    whole: dict[str, set[str]] = defaultdict(set)  # lines by the module
    members: dict[str, set[str]] = defaultdict(set)
    for found in imports:
        name = names[found]
        if found.attribute is not None:
            shown = found.attribute if name == found.attribute else f"{found.attribute} as {name}"
            members[found.module].add(shown)
        else:
            shown = "" if _dotted(found) and name == found.name else f" as {name}"
            whole[found.module].add(f"import {found.module}{shown}")
    for theirs in (False, True):
        if theirs:
            yield ""
        modules = sorted({*whole, *members})
        here = [name for name in modules if (name.split(".")[0] in sys.stdlib_module_names) != theirs]
        for module in here:
            yield from sorted(whole.get(module, ()))
        for module in here:
            if module in members:
                yield _wrapped(module, sorted(members[module]))


def _wrapped(module: str, members: list[str]) -> str:
    line = f"from {module} import {', '.join(members)}"
    if len(line) <= LINE_WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {member},\n" for member in members) + ")"


def _dotted(found: Import) -> bool:
    """Whether it is `import a.b`, which gives the name a."""
    return found.attribute is None and found.name == found.module.split(".")[0]


def _piece(
    module: Module, statement: ast.stmt, kept: Pruned, reached: Reached, names: dict[Definition | Import, str]
) -> str:
    """A definition as it stands in its module, with what is left out left out, and names replaced."""
    lines = [f"{line}\n" for line in module.text.split("\n")]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(place: tuple[int, int]) -> int:
        line, column = place
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def whole_lines(node: ast.stmt) -> tuple[int, int]:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)]) - 1
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        assert node.end_lineno is not None
        return first, node.end_lineno

    cuts = [Edit(offset(span.start), offset(span.end), "") for span in kept.spans]
    for node in kept.statements:
        first, end = whole_lines(node)
        cuts.append(Edit(starts[first], starts[end], ""))
    changes = [
        Edit(offset(span.start), offset(span.end), text)
        for span, text in _renamed(module, kept, reached, names)
    ]
    first, end = whole_lines(statement)
    comments = [Edit(starts[n - 1] + a, starts[n - 1] + b, "") for n, a, b in for_checkers(module.text)]
    edits = [e for e in cuts + changes + comments if starts[first] <= e.start < starts[end]]
    text, at = "", starts[first]
    for edit in sorted(edits):
        if edit.start >= at:  # not inside of what is left out
            text += module.text[at : edit.start] + edit.text
            at = edit.end
            while text.endswith("\n\n") and module.text[at : at + 1] == "\n":  # one blank line of two
                at += 1
    text += module.text[at : starts[end]]
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))


def _renamed(
    module: Module, kept: Pruned, reached: Reached, names: dict[Definition | Import, str]
) -> Iterator[tuple[Extent, str]]:
    """Names that are others in the file. In an annotation, what is not in the file is Any."""

    def renamed(name: ast.Name, in_annotation: bool) -> str:
        found = reached.meaning(module.name, name.id)
        absent = isinstance(found, Definition) and found not in reached.definitions
        absent = absent or (found is None and not hasattr(builtins, name.id))
        return "Any" if absent and in_annotation else names.get(found, name.id) if found else name.id

    for name, noted in kept.names:
        text = renamed(name, noted)
        if text != name.id:
            if ast.get_source_segment(module.text, name) != name.id:  # Python 3.11 does not know its place
                raise ExportError(
                    f"{module.title}: {name.id}, in an f-string, is a name that stands in the file twice; "
                    "give it another"
                )
            yield extent_of(name), text
    for note, text in quoted(kept.node):
        there = [each for each in ast.walk(ast.parse(text, mode="eval")) if isinstance(each, ast.Name)]
        same = all(renamed(each, True) == each.id for each in there)
        yield extent_of(note), text if same else "Any"
    if isinstance(kept.node, ast.ClassDef | ast.FunctionDef):
        text = names[Definition(module.name, kept.node.name)]
        if text != kept.node.name:
            column = kept.node.col_offset + len("class " if isinstance(kept.node, ast.ClassDef) else "def ")
            line = kept.node.lineno
            yield Extent((line, column), (line, column + len(kept.node.name.encode()))), text


@cache
def for_checkers(text: str) -> list[tuple[int, int, int]]:
    """Line, first and last column of the comments that speak to checkers of types and of style."""
    return [
        (token.start[0], token.start[1], token.end[1])
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.string.startswith(FOR_CHECKERS)
    ]


def quoted(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Annotations, or parts of them, that are written as texts."""
    waiting: list[ast.AST] = list(in_annotations(node))
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each, each.value
        if not (isinstance(each, ast.Subscript) and last(each.value) == "Literal"):
            waiting += ast.iter_child_nodes(each)
