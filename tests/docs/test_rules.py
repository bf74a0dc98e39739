"""The test of the design: a part's name stands in its own file, in its YAML, and in nothing on the way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.registry import registries

ROOT = Path(__file__).parents[2]
EXCEPT = {"hf"}  # tables for published checkpoints name the parts that they map to
KINDS = ("norm", "position", "scaling", "ffn", "placement", "topology", "init", "optimizer", "source")


def asked(text: str) -> set[str]:
    """Every text that a comparison or a `case` holds, in tuples, sets and lists too."""
    places = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Compare, ast.MatchValue))]
    leaves = [leaf for place in places for leaf in ast.walk(place)]
    return {leaf.value for leaf in leaves if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}


@pytest.mark.parametrize(
    "text",
    [
        "a.name == 'rope'",
        "a.name != 'rope'",
        "'rope' == a.name",
        "a.name in ('x', 'rope')",
        "a.name not in {'x', 'rope'}",
        "a.name in ['x', 'rope']",
        "match a.name:\n    case 'x' | 'rope': pass",
    ],
)
def test_every_way_to_ask_for_a_name_is_seen(text):
    assert "rope" in asked(text)
    assert "rope" not in asked("a.name = 'rope'")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_branches_on_the_name_of_a_part(kind):
    registry = registries[kind]
    names = {*registry} - {"none"}
    own = {registry[name].source.resolve() for name in registry}
    for path in (ROOT / "ablate").rglob("*.py"):
        if path.resolve() in own or EXCEPT & set(path.relative_to(ROOT / "ablate").with_suffix("").parts):
            continue
        compared = names & asked(path.read_text(encoding="utf-8"))
        assert not compared, f"{path} asks whether a {kind} is {compared}"


def test_studies_leave_torch_alone():
    """Planning and reporting start at once: no study module loads torch."""
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for wing in ("study", "engine")
        for p in sorted((ROOT / "ablate" / wing).rglob("*.py"))
    ]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def raised_classes():
    """Every class of exception that the package defines."""
    for path in sorted((ROOT / "ablate").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                if any(base.endswith(("Error", "Exception", "Interrupt")) for base in bases):
                    yield path.relative_to(ROOT), node.name, bases


def test_every_error_is_an_ablate_error():
    """But a stop, which must pass every `except Exception`."""
    classes = list(raised_classes())
    assert len(classes) > 10
    others = [
        name for _, name, bases in classes if "AblateError" not in bases and "Interrupt" not in str(bases)
    ]
    assert others == ["AblateError"]
