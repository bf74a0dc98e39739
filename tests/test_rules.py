"""The test of the design: a part's name stands in its own file, in its YAML, and in nothing on the way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.registry import registries

ROOT = Path(__file__).parent.parent
EXCEPT = {"hf"}  # tables for published checkpoints name the parts that they map to
KINDS = ("norm", "position", "scaling", "ffn", "placement", "topology", "init", "optimizer", "source")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_branches_on_the_name_of_a_part(kind):
    registry = registries[kind]
    names = [name for name in registry if name != "none"]
    own = {registry[name].source.resolve() for name in registry}
    for path in (ROOT / "ablate").rglob("*.py"):
        if path.resolve() in own or EXCEPT & set(path.relative_to(ROOT / "ablate").with_suffix("").parts):
            continue
        text = path.read_text(encoding="utf-8")
        compared = [n for n in names if re.search(rf"""(==|!=|\bin \(|\bcase )\s*["']{n}["']""", text)]
        assert not compared, f"{path} asks whether a {kind} is {compared}"


def test_studies_leave_torch_alone():
    """Planning and reporting start at once: no study module loads torch."""
    modules = [f"ablate.study.{p.stem}" for p in (ROOT / "ablate" / "study").glob("*.py")]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
