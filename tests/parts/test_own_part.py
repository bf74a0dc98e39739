"""The example of the docs: a part in a user's own file works without a change anywhere else."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import HARD
from conftest import small
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError
from training import run_spec, write_text

from ablate.cli.check import checker, looks_ahead
from ablate.measure import metrics_of
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext, Position
from ablate.registry import Registry, load_parts, registries
from ablate.train.state.source_hash import source_hash, sources

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "kerple.py"


def test_the_example_of_the_docs_builds_trains_and_decodes(tokens, own_parts):
    load_parts([str(EXAMPLE)])
    load_parts([str(EXAMPLE)])  # naming a file twice is loading it once
    m = Decoder(small(position={"name": "kerple", "start": 0.5})).init_parameters(0)
    assert m.positions[0].a.tolist() == [0.5] * 4
    m(tokens, targets=tokens.roll(-1, 1)).nll.mean().backward()
    assert m.positions[0].c.grad.abs().sum() > 0
    with torch.no_grad():
        memories = m.memories(20)
        pieces = [
            m(tokens[:, n : n + 1], ForwardContext(torch.tensor([[n]]), memories=memories)) for n in range(20)
        ]
        torch.testing.assert_close(torch.cat(pieces, 1), m(tokens), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValidationError, match="greater than 0"):
        small(position={"name": "kerple", "start": -1})
    (line,) = [line for line in (ROOT / "docs/interfaces.md").read_text().splitlines() if "=kerple" in line]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed = compose("train", [*shlex.split(line)[2:], "model.position.start=0.5"])
    chosen = registries["position"].parse(OmegaConf.to_container(typed.model.position))
    assert chosen == m.spec.position


def test_the_measure_of_the_docs_gives_what_it_says(tmp_path, own_parts):
    page = (ROOT / "docs/measures.md").read_text()
    (tmp_path / "mine.py").write_text(page.split("```python\n")[1].split("```")[0])
    load_parts([str(tmp_path / "mine.py")])
    found = registries["measure"].build("weights")(
        SimpleNamespace(decoder=Decoder(small()).init_parameters(0)), None
    )
    assert tuple(found.metrics) == metrics_of("weights")
    assert 0 < found.metrics["weights/alive"] <= 1


def test_an_option_may_be_a_list(own_parts):
    class Listed(Position):
        def __init__(self, shape, *, speeds: list[float]):
            super().__init__(shape)

    registries["position"]("listed", paper="mine")(Listed)
    far = {"position": {"name": "listed", "speeds": [2.0]}}
    m = Decoder(
        small(
            position={"name": "listed", "speeds": [1.0]},
            variants={"near": {}, "far": far},
            pattern=["near", "far"],
        )
    )
    assert len(m.positions) == 2


@pytest.mark.parametrize("case", HARD.values(), ids=HARD.keys())
def test_no_part_in_the_box_is_taken_for_one_that_looks_ahead(case):
    assert not looks_ahead(Decoder(small(**case)).init_parameters(0))


def test_a_part_that_looks_ahead_is_refused_in_a_study(tmp_path, own_parts):
    class Ahead(torch.nn.Identity):
        def forward(self, x, aux):
            return x.roll(-1, 1)

    registries["ffn"]("ahead", paper="mine")(lambda shape: Ahead())
    spec = run_spec(write_text(tmp_path), model={"ffn": "ahead"})
    found = checker(tmp_path / "cache", "cpu")(spec.model_dump(mode="json"))
    assert found.refusals == ("a part looks ahead: the output at a token depends on later tokens",)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImportError, match=r"there is no file .*mine\.py"):
        load_parts([str(tmp_path / "mine.py")])


def test_what_their_code_raises_is_said_with_its_line(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\n\ntorch.nope\n")
    with pytest.raises(ImportError, match=r"AttributeError: .*'nope' \(.*mine\.py, line 3\)"):
        load_parts([str(tmp_path / "mine.py")])


def test_what_a_part_imports_of_ones_own_is_of_its_code(tmp_path, monkeypatch, own_parts):
    """Else a run would count as done though the part has changed."""
    norm = "from ablate.registry import norm\nfrom {} import EPS\n"
    norm += "@norm('{}', paper='mine')\ndef own(width): return torch.nn.RMSNorm(width, EPS)\n"
    for place, names in {
        "single.py": ("constants", "single"),
        "pack/part.py": (".constants", "packed"),
    }.items():
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("import torch\n" + norm.format(*names))
        file.with_name("constants.py").write_text("import math\nEPS = 1e-5\n")
    (tmp_path / "pack/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    load_parts([str(tmp_path / "single.py"), "pack.part"])
    found = {name: sources(registries["norm"].parse(name)) for name in ("single", "packed")}
    assert found["single"] == {tmp_path / "single.py", tmp_path / "constants.py"}
    assert found["packed"] == {
        tmp_path / "pack" / name for name in ("__init__.py", "part.py", "constants.py")
    }


def test_a_part_that_is_edited_later_is_not_of_the_code(tmp_path, own_parts):
    """A warm worker goes on with what it has imported, and its records must say so."""
    file = tmp_path / "later.py"
    file.write_text(
        "import torch\nfrom ablate.registry import norm\n"
        "@norm('later', paper='mine')\ndef later(width): return torch.nn.RMSNorm(width)\n"
    )
    load_parts([str(file)])
    spec = run_spec(tmp_path / "a.txt", {"norm": {"name": "later"}})
    before = source_hash(spec)
    file.write_text(file.read_text() + "# edited\n")
    assert source_hash(spec) == before


@pytest.mark.parametrize("option", ["eps=1", "kind: str = 'a'", "name: str = 'a'", "entry: int = 1"])
def test_an_option_that_cannot_be_one_is_named(option):
    made: dict[str, Any] = {}
    exec(f"class Own:\n def __init__(self, width, *, {option}): pass", made)
    with pytest.raises(ValueError, match=f"norm 'own': .*'{option.split('=')[0].split(':')[0]}'"):
        registries["norm"]("own", paper="mine")(made["Own"])


def test_a_home_that_cannot_be_imported_is_named_each_time(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registries, "broken", None)
    (tmp_path / "broken_home.py").write_text("import not_installed")
    broken = Registry("broken", "broken_home")
    for _ in range(2):
        with pytest.raises(ImportError, match="not_installed"):
            broken["any"]
