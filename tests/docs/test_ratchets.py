"""A public name is defined once and has a docstring, and no file is longer than a reader can hold."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "ablate").rglob("*.py"))
LONGEST = 400  # lines of a file
CUSTOMARY = {"log", "T"}  # a file's own logger, and its own type variable, have no other name
STAND_INS = "ablate.model.hf.code.stand_ins"  # has the names of what it stands for

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def dotted(path: Path, root: Path = ROOT) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def public(name: str) -> bool:
    return not name.startswith("_")


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those under `if`, `try` and `with`."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, Definition):
                for inner in getattr(node, field, []):
                    yield from top_level(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def names(tree: ast.Module) -> set[str]:
    """The public functions, classes and constants that a module defines; imports define nothing."""
    found: set[str] = set()
    for node in top_level(tree.body):
        if isinstance(node, Definition):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            leaves = [leaf for target in targets for leaf in ast.walk(target)]
            found |= {e.id for e in leaves if isinstance(e, ast.Name) and isinstance(e.ctx, ast.Store)}
    return {name for name in found if public(name)}


def repeated(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Name -> the modules that define it, where they are several."""
    where = defaultdict(list)
    for module, tree in trees.items():
        for name in names(tree) if module != STAND_INS else ():
            where[name].append(module)
    return {name: modules for name, modules in where.items() if len(modules) > 1 and name not in CUSTOMARY}


def undocumented(module: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names of the module and of its public functions and classes that have no docstring. Methods are
    left to the contracts that they fulfil; an empty file has nothing to say."""
    if not all(public(part) or part == "__main__" for part in module.split(".")):
        return
    if tree.body and not ast.get_docstring(tree):
        yield module
    for node in top_level(tree.body):
        if isinstance(node, Definition) and public(node.name) and not ast.get_docstring(node):
            yield f"{module}.{node.name}"


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    return {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_public_name_is_defined_once(trees):
    assert repeated(trees) == {}, "give each definition a name of its own"


def test_what_is_public_has_a_docstring(trees):
    missing = sorted(name for module, tree in trees.items() for name in undocumented(module, tree))
    assert not missing, f"write a docstring for each: {missing}"


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {dotted(path): len(lines(path)) for path in FILES}
    assert lengths["ablate.registry"] > 0
    long = {module: length for module, length in lengths.items() if length > LONGEST}
    assert not long, f"split by idea what has more than {LONGEST} lines: {long}"


# ------------------------------------------------------------------------- the rules see what they should


def parsed(text: str) -> ast.Module:
    return ast.parse(dedent(text))


@pytest.mark.parametrize(
    "text",
    [
        "def one(): ...",
        "async def one(): ...",
        "class one: ...",
        "one = 1",
        "one: int = 1",
        "other, (one, *rest) = x",
        "other = one = 1",
        "try:\n    import x\nexcept ImportError:\n    one = None",
        "if x:\n    pass\nelse:\n    def one(): ...",
        "with x:\n    one = 1",
    ],
)
def test_every_way_to_define_a_name_is_seen(text):
    again = {"a": parsed(text), "b": parsed("def one(): ...")}
    assert repeated(again) == {"one": ["a", "b"]}


@pytest.mark.parametrize(
    "text", ["from a import one", "x.one = 1", "x[one] = 1", "def f():\n    one = 1", "_one = 1"]
)
def test_what_defines_no_public_name_is_not_seen(text):
    assert "one" not in names(parsed(text))


def test_everything_public_without_a_docstring_is_seen():
    text = """
        def plain(): ...
        async def later(): ...
        def told():
            "Said."
            def inner(): ...
        class Bare:
            def method(self): ...
        class _Own: ...
        def _own(): ...
        if x:
            def under(): ...
    """
    found = {*undocumented("ablate.some", parsed(text))}
    assert found == {f"ablate.some{name}" for name in ("", ".plain", ".later", ".Bare", ".under")}
    assert not {*undocumented("ablate._some", parsed(text))}
    assert not {*undocumented("ablate.empty", parsed(""))}
