"""Launchers of others under `train.py -m`: the same losses, in the same folder, with the threads as asked."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]
SMALL = ["data=text", "data/tokenizer=bytes", "model.width=16", "model.depth=1", "model.heads=2"]
SMALL += [
    "model.context=16",
    "budget.tokens=640",
    "budget.batch_tokens=64",
    "trainer=cpu",
    "model.dropout=0.1",
]
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_submitit_launcher", ["hydra.launcher.timeout_min=5"]),
    "ray": ("hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
}


def trained(place: Path, text: Path, *more: str) -> dict[int, RunRecord]:
    """The records of two seeds, by seed. The text is named from the working folder."""
    place.mkdir()
    (place / "a.txt").write_text(text.read_text())
    words = ["data.source.files=[a.txt]", *SMALL, "trainer.threads=1", "seed=0,1", *more]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = [RunRecord.load(path.parent) for path in place.glob("runs/*/record.json")]
    return {record.spec["seed"]["init"]: record for record in records}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, RunRecord]]:
    """The text, and what Hydra's own launcher gives."""
    place = tmp_path_factory.mktemp("alone")
    text = place / "text"
    text.write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    return text, trained(place / "basic", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_seeds_folder_and_threads_are_those_of_hydra_s_own(name, alone, tmp_path):
    plugin, options = LAUNCHERS[name]
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"needs {plugin}")
    text, basic = alone
    found = trained(tmp_path / "other", text, f"hydra/launcher={name}", *options)
    assert found.keys() == basic.keys() == {0, 1}
    for seed, record in found.items():
        assert record.weights_hash == basic[seed].weights_hash and record.metrics == basic[seed].metrics
        assert record.provenance["threads"] == basic[seed].provenance["threads"] == 1
    assert basic[0].weights_hash != basic[1].weights_hash
