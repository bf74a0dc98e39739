"""Every file that a run can execute is hashed, or said to decide no number."""

import grimp
import pytest
from training import run_spec

from ablate.paths import PACKAGE
from ablate.registry import registries
from ablate.train.state import source_hash
from ablate.train.state.source_hash import NOT_DECIDING, defining, hashed, measure_hash, package_files, reason

# What builds, trains, evaluates and scores a run, in whatever process.
ENTRIES = (
    "ablate.train.fit",
    "ablate.train.rank",
    "ablate.train.speed.ensemble_runs",
    "ablate.measure.score",
)


@pytest.fixture
def spec(tmp_path):
    return run_spec(tmp_path / "a.txt")


def executed() -> set:
    """The files of the package that a run can import, by the graph of imports and the homes of parts."""
    graph = grimp.build_graph("ablate", exclude_type_checking_imports=True)
    reached = set(ENTRIES)
    for entry in ENTRIES:
        reached |= graph.find_upstream_modules(entry)
    for registry in registries.values():
        inside = {name for name in graph.modules if f"{name}.".startswith(f"{registry.home}.")}
        for name in inside:
            reached |= {name, *graph.find_upstream_modules(name)}
    stems = [PACKAGE.parent.joinpath(*name.split(".")) for name in reached]
    files = (stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py") for stem in stems)
    return {file for file in files if file.stat().st_size}


def test_what_a_run_executes_is_hashed_or_said_to_decide_nothing():
    optional = {path for kind in registries if kind != "kernel" for path in defining(kind)}
    unknown = executed() - package_files() - optional
    assert not {path.name for path in unknown if reason(path) is None}
    assert len(executed()) > 80


@pytest.mark.parametrize("place", NOT_DECIDING)
def test_what_is_left_out_exists(place):
    assert (PACKAGE / place).exists()


@pytest.mark.parametrize(
    "name", ["linear.py", "stacked.py", "compiler.py", "sincos.py", "base.py", "sdpa.py"]
)
def test_an_edit_of_a_shared_file_of_parts_makes_other_code(name, spec, monkeypatch):
    before = source_hash.source_hash(spec)
    (file,) = [path for path in hashed(spec) if path.name == name]
    known = source_hash._hash
    monkeypatch.setattr(source_hash, "_hash", lambda path: "edited" if path == file else known(path))
    assert source_hash.source_hash(spec) != before


def test_an_edit_of_a_measure_is_of_its_hash_alone(spec, monkeypatch):
    before = {name: measure_hash(name) for name in ("heldout", "length")}, source_hash.source_hash(spec)
    (file,) = source_hash.sources(registries["measure"].parse("length"))
    known = source_hash._hash
    monkeypatch.setattr(source_hash, "_hash", lambda path: "edited" if path == file else known(path))
    after = {name: measure_hash(name) for name in ("heldout", "length")}, source_hash.source_hash(spec)
    assert after[0]["heldout"] == before[0]["heldout"] and after[0]["length"] != before[0]["length"]
    assert after[1] == before[1]
