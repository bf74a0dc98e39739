"""A definition without what an exported model never uses: methods that nothing calls, how tensors start, the
costs of a part, and bounds of options."""

import ast
from collections.abc import Iterator, Set
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

from torch import nn

from ablate.model.hf.code.names import FUNCTIONS, annotations, bound, global_names

# What parts say for training and for tables of costs, by attributes that nothing else reads.
TOLD = ("starts", "constants", "state_sizes", "state_products", "more_activations", "more_products")
TELLING = "kept"  # the method that says it for a recurrent mixer
PLAIN_BASES = ("Module", "NamedTuple", "Protocol", "Hashable")  # these call methods of `nn.Module` alone
# Methods of ablate's own classes that training, checks and tables call, whatever else has such a name.
BEFORE = {"check", "canonical", "costs", "needs", "refuses", "settle", "row_bytes"}
BEFORE |= {"auxiliary", "after_step", "loss", "sums", "whole"}
BY_NAME = ("getattr", "hasattr")


class Extent(NamedTuple):
    """A piece of source, from one place to another: (line, column in bytes)."""

    start: tuple[int, int]
    end: tuple[int, int]


@dataclass(frozen=True)
class Pruned:
    """What is left of a statement at the top of a module, with its places in the source."""

    node: ast.stmt
    statements: list[ast.stmt] = field(default_factory=list)  # that are left out
    spans: list[Extent] = field(default_factory=list)  # that are left out inside of a line

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The names of attributes that it reads."""
        return frozenset(attributes(self.node))

    @cached_property
    def names(self) -> list[tuple[ast.Name, bool]]:
        """The names that mean something of the module, and whether they stand in an annotation."""
        noted = {id(each) for note in in_annotations(self.node) for each in ast.walk(note)}
        return [(name, id(name) in noted) for name in global_names(self.node)]


def pruned(statement: ast.stmt, asked: set[str], own_bases: set[str]) -> Pruned:
    """The statement with only those members of classes that are `asked` for; `own_bases` are the names of
    classes whose methods are known."""
    return _pruned(statement, frozenset(asked & members(statement)), frozenset(own_bases))


@cache
def _pruned(statement: ast.stmt, asked: frozenset[str], own_bases: frozenset[str]) -> Pruned:
    pruner = _Pruner(asked, own_bases)
    return Pruned(pruner.visit(deepcopy(statement)), pruner.statements, pruner.spans)


@cache
def members(statement: ast.stmt) -> frozenset[str]:
    """What the classes in a statement define."""
    classes = [each for each in ast.walk(statement) if isinstance(each, ast.ClassDef)]
    return frozenset(name for each in classes for member in each.body for name in bound(member))


def attributes(node: ast.AST) -> Iterator[str]:
    """The names of attributes that are read, by `getattr` too."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load):
            yield each.attr
        elif isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id in BY_NAME:
            texts = (arg.value for arg in each.args if isinstance(arg, ast.Constant))
            yield from (text for text in texts if isinstance(text, str))


def has_known_methods(node: ast.ClassDef, own_bases: Set[str]) -> bool:
    """Whether nobody else calls methods of the class, but for those of `nn.Module`."""
    return all(last(base) in (*PLAIN_BASES, *own_bases) for base in node.bases)


def in_annotations(node: ast.AST) -> Iterator[ast.expr]:
    """Every annotation in a statement."""
    for each in ast.walk(node):
        yield from annotations(each)


class _Pruner(ast.NodeTransformer):
    def __init__(self, asked: Set[str], own_bases: Set[str]):
        self.asked, self.own_bases = asked, own_bases
        self.statements: list[ast.stmt] = []
        self.spans: list[Extent] = []
        self.read: list[set[str]] = []  # attributes that the class at hand reads

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if has_known_methods(node, self.own_bases):
            fields = any(last(base) == "NamedTuple" for base in node.bases) or bool(node.decorator_list)
            kept = [each for each in node.body if self._lasts(each, fields)] or node.body[:1]
            self.statements += [each for each in node.body if each not in kept]
            node.body = kept
        self.read.append({name for each in _untold(node) for name in attributes(each)})
        self.generic_visit(node)
        self.read.pop()
        return node

    def _lasts(self, member: ast.stmt, fields: bool) -> bool:
        if isinstance(member, FUNCTIONS):
            return self._wanted(member.name)
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            field = fields and "ClassVar" not in ast.unparse(member.annotation)
            return field or self._wanted(member.target.id)
        if isinstance(member, ast.Assign):
            return any(self._wanted(each.id) for each in member.targets if isinstance(each, ast.Name))
        return True

    def _wanted(self, name: str) -> bool:
        return name in self.asked or name.startswith("__") or hasattr(nn.Module, name)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        return self._unless_unread(node, told(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | None:
        return self._unless_unread(node, told(node))

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        called = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr == TELLING:
            self.statements.append(node)
            return None
        self.generic_visit(node)
        return node

    def _unless_unread(self, node: ast.stmt, attribute: str) -> ast.stmt | None:
        if attribute and self.read and attribute not in self.read[-1]:
            self.statements.append(node)
            return None
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """`Annotated[int, Gt(0)]` is `int`."""
        if last(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            first = node.slice.elts[0]
            whole, inside = extent_of(node), extent_of(first)
            self.spans += [Extent(whole.start, inside.start), Extent(inside.end, whole.end)]
            kept: ast.expr = self.visit(first)
            return kept
        self.generic_visit(node)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        """An option that is a part has no default: the config names every option."""
        for n, default in enumerate(node.kw_defaults):
            if isinstance(default, ast.Call) and last(default.func) == "use":
                self.spans.append(Extent(extent_of(node.kwonlyargs[n]).end, extent_of(default).end))
                node.kw_defaults[n] = None
        self.generic_visit(node)
        return node


def told(node: ast.AST) -> str:
    """Which of `TOLD` it assigns; nothing where it does not."""
    if not isinstance(node, ast.Assign | ast.AugAssign):
        return ""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return target.attr if isinstance(target, ast.Attribute) and target.attr in TOLD else ""


def _untold(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions of a class outside of such assignments."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif not told(child):
            yield from _untold(child)


def last(node: ast.expr) -> str:
    """`Module` of `nn.Module`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def extent_of(node: ast.expr | ast.arg) -> Extent:
    """Where an expression or an argument stands."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    return Extent((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
