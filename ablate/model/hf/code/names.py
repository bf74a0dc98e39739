"""Which names of a piece of Python mean something of its module, by Python's rules of scope."""

import ast
from collections.abc import Iterator, Sequence

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Scope = frozenset[str]


def global_names(node: ast.AST, local: Scope = frozenset()) -> Iterator[ast.Name]:
    """The names in a statement of a module that are not local to a function, class or comprehension; those in
    annotations of functions too."""
    if isinstance(node, ast.Name):
        if node.id not in local:
            yield node
    elif isinstance(node, (*FUNCTIONS, ast.Lambda)):
        for outside in (*_decorators(node), *_defaults(node), *annotations(node)):
            yield from global_names(outside, local)
        body = node.body if isinstance(node.body, list) else [node.body]
        inside = local | {arg.arg for arg in _arguments(node)} | _bound(body)
        for statement in body:
            yield from global_names(statement, inside)
    elif isinstance(node, ast.ClassDef):
        for outside in (*node.decorator_list, *node.bases, *(key.value for key in node.keywords)):
            yield from global_names(outside, local)
        own = _bound(node.body)
        for statement in node.body:
            if isinstance(statement, FUNCTIONS):  # does not see the names of the class
                for outside in (*_decorators(statement), *_defaults(statement), *annotations(statement)):
                    yield from global_names(outside, local | own)
                inside = local | {arg.arg for arg in _arguments(statement)} | _bound(statement.body)
                for within in statement.body:
                    yield from global_names(within, inside)
            else:
                yield from global_names(statement, local | own)
    elif isinstance(node, COMPREHENSIONS):
        inside = local | {n.id for each in node.generators for n in _names(each.target)}
        for child in ast.iter_child_nodes(node):
            yield from global_names(child, inside)
    else:
        for child in ast.iter_child_nodes(node):
            yield from global_names(child, local)


def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """Those of a function's arguments and result, or of a variable."""
    if isinstance(node, FUNCTIONS):
        yield from (arg.annotation for arg in _arguments(node) if arg.annotation is not None)
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, ast.AnnAssign):
        yield node.annotation


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning in its own scope."""
    return _bound([statement])


def _arguments(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
        return []
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(each for each in (a.vararg, a.kwarg) if each)]


def _defaults(node: ast.AST) -> list[ast.expr]:
    if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
        return []
    return [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]


def _decorators(node: ast.AST) -> list[ast.expr]:
    return node.decorator_list if isinstance(node, FUNCTIONS) else []


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Name))


def _bound(body: Sequence[ast.AST]) -> set[str]:
    found: set[str] = set()
    elsewhere: set[str] = set()  # said to be of the module
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
            continue
        if isinstance(node, (*COMPREHENSIONS, ast.Lambda)):
            found |= {each.target.id for each in ast.walk(node) if _walrus(each)}  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Global):
            elsewhere |= {*node.names}
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        waiting += ast.iter_child_nodes(node)
    return found - elsewhere


def _walrus(node: ast.AST) -> bool:
    return isinstance(node, ast.NamedExpr)
