"""Modules of ablate, and of a user's own parts, as definitions that name each other."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

from ablate.model.hf.code.names import FUNCTIONS, bound
from ablate.model.hf.family import ExportError

STAND_INS = "ablate.model.hf.code.stand_ins"
# What a file has in the place of definitions of ablate: names of `STAND_INS`.
_KINDS = ("norm", "activation", "ffn", "position", "scaling", "attention", "kernel", "placement", "topology")
REPLACED_BY = {
    **{("ablate.registry", kind): kind for kind in (*_KINDS, "stream", "lookup")},
    ("ablate.spec", "ModelSpec"): "ModelSpec",
    ("ablate.parts.linear", "Linear"): "Linear",
    ("ablate.parts.linear", "product"): "product",
    ("ablate.parts.kernel.sdpa", "prepared_attention"): "sdpa",
    ("ablate.parts.position.sincos", "cos_sin"): "cos_sin",
}
FOREIGN = {*sys.stdlib_module_names, "torch", "transformers"}  # what a file may import


class Definition(NamedTuple):
    """What a name of a module of ours means."""

    module: str
    name: str


class Import(NamedTuple):
    """What a name means that is imported from elsewhere: a module, or an attribute of one."""

    module: str
    attribute: str | None
    name: str  # as which it is known


@dataclass
class Module:
    """A module, parsed."""

    name: str
    file: Path
    text: str
    defined: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, Import] = field(default_factory=dict)
    loose: list[ast.stmt] = field(default_factory=list)  # statements that define nothing

    @property
    def title(self) -> str:
        """Its name; that of its file, where a path was loaded."""
        return self.file.name if self.name.startswith("ablate_parts_") else self.name


class Sources:
    """The modules that may go into a file: those of ablate, and of the packages or files of `parts`."""

    def __init__(self, parts: set[str]):
        self.roots = {"ablate", *(name.split(".")[0] for name in parts)}
        self.parsed: dict[str, Module] = {}

    def ours(self, module: str) -> bool:
        return module.split(".")[0] in self.roots

    def module(self, name: str) -> Module:
        if name not in self.parsed:
            self.parsed[name] = _read(name)
        return self.parsed[name]

    def imports_of(self, module: str) -> Iterator[str]:
        """The modules of ours that one needs to stand before it."""
        for found in self.module(module).imported.values():
            if self.ours(found.module):
                replaced = (found.module, found.attribute) in REPLACED_BY
                yield STAND_INS if replaced else found.module

    def meaning(self, module: str, name: str) -> Definition | Import | None:
        """What a name at the top of a module means; None where nothing there defines it. Raises ExportError
        for what a file cannot import."""
        if (module, name) in REPLACED_BY:
            return Definition(STAND_INS, REPLACED_BY[module, name])
        here = self.module(module)
        if name in here.defined:
            return Definition(module, name)
        found = here.imported.get(name)
        if found is None:
            return None
        if not self.ours(found.module):
            if found.module.split(".")[0] not in FOREIGN:
                raise ExportError(
                    f"{here.title} imports {found.module}, and an exported file may import torch, "
                    f"transformers and Python's own modules alone; write what {name} does into the file"
                )
            return found
        if found.attribute is None:
            raise ExportError(
                f"{here.title} imports the module {found.module}; to be carried it must say by `from "
                f"{found.module} import ...` what it needs of it"
            )
        return self.meaning(found.module, found.attribute)


@cache
def _read(name: str) -> Module:
    """As the file is when it is first exported from in this process."""
    try:
        spec = find_spec(name)
    except ValueError:  # of a script, `__main__`
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ExportError(f"{name} is no file of Python, so its source cannot be carried")
    text = Path(spec.origin).read_text(encoding="utf-8")
    module = Module(name, Path(spec.origin), text)
    package = spec.parent or ""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for found in _imports(statement, package):
                module.imported[found.name] = found
        elif _defines(statement) and not _about(statement, module):
            for each in bound(statement):
                module.defined[each] = statement
        elif not _harmless(statement):
            module.loose.append(statement)
    return module


def _imports(statement: ast.Import | ast.ImportFrom, package: str) -> list[Import]:
    if isinstance(statement, ast.Import):
        return [Import(each.name, None, each.asname or each.name.split(".")[0]) for each in statement.names]
    whole = "." * statement.level + (statement.module or "")
    whole = resolve_name(whole, package) if statement.level else whole
    return [Import(whole, each.name, each.asname or each.name) for each in statement.names]


def _defines(statement: ast.stmt) -> bool:
    """Whether it gives names a meaning, and does not only change what a name means."""
    definitions = (*FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return isinstance(statement, definitions) and bool(bound(statement))


def _about(statement: ast.stmt, module: Module) -> bool:
    """Whether a definition only adds to another one of its module, as `@operator.register_fake` does."""
    decorators = statement.decorator_list if isinstance(statement, FUNCTIONS) else []
    roots = [each.value for each in decorators if isinstance(each, ast.Attribute)]
    return any(isinstance(root, ast.Name) and root.id in module.defined for root in roots)


def _harmless(statement: ast.stmt) -> bool:
    """A text, or what is of typing or of a script alone."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
        "__name__ == '__main__'",
    )
