"""A user's callbacks and profiler: they watch, are no part of a run, and only the user names them."""

import ast
import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from training import QUIET, prepared_for, run_spec, write_text

from ablate.measure.trained import open_run
from ablate.paths import PACKAGE
from ablate.record import RunRecord, content_hash
from ablate.spec import RunSpec
from ablate.train.fit import perform_request
from ablate.train.observers import ObserverError, make_callbacks, make_profiler
from ablate.train.request import RunRequest
from ablate.train.settings import LoggerSpec, Settings

COUNTS = {"_target_": "observing.Counts", "every": 2}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def observed(tmp_path, monkeypatch) -> Path:
    file = tmp_path / "observed"
    monkeypatch.setenv("OBSERVED", str(file))
    return file


def request(text: Path, runs: Path, **rest) -> RunRequest:
    return RunRequest(spec=run_spec(text, steps=4), settings=QUIET, runs=runs, cache=text.parent, **rest)


def train(asked: RunRequest, text: Path) -> RunRecord:
    return perform_request(asked, prepared_for(asked.spec, text.parent))


def test_callbacks_watch_and_change_neither_the_id_nor_the_numbers(text, tmp_path, observed):
    plain = train(request(text, tmp_path / "a"), text)
    watched = train(request(text, tmp_path / "b", callbacks=(COUNTS,), profiler="simple"), text)
    assert observed.read_text().split("\n")[:2] == ["step 2", "step 4"]
    assert (watched.id, watched.metrics) == (plain.id, plain.metrics)
    assert watched.weights_hash == plain.weights_hash
    assert watched.provenance["callbacks"] == ["observing.Counts"] and plain.provenance["callbacks"] == []
    profile = (tmp_path / "b" / watched.id / "fit-profile.txt").read_text()
    assert "run_training_batch" in profile


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.Callback", "callbacks[0]: No module named 'nowhere'"),
        ("observing.Missing", "callbacks[0]: module 'observing' has no attribute 'Missing'"),
        ("observing.called", "no class derived from lightning.pytorch's Callback"),
        ("os.system", "no class derived"),
        ("json", "no dotted name"),
        ("__import__('os')", "no dotted name"),
        ({"every": 1}, "no dotted name"),
        ({**COUNTS, "evry": 1}, "unexpected keyword argument 'evry'"),
    ],
)
def test_what_is_no_callback_is_refused_and_not_called(target, said, observed):
    with pytest.raises(ObserverError) as error:
        make_callbacks([target])
    assert said in str(error.value) and not observed.exists()


def test_a_profiler_is_a_profiler(tmp_path):
    assert make_profiler(None, tmp_path) is None
    with pytest.raises(ObserverError, match="is no class derived"):
        make_profiler("observing.Counts", tmp_path)


def test_no_specification_setting_or_record_has_a_field_for_them(text):
    spec = run_spec(text, steps=4).model_dump(mode="json")
    for schema, node in ((RunSpec, spec), (Settings, {}), (LoggerSpec, {})):
        for name in ("callbacks", "profiler", "_target_"):
            with pytest.raises(ValidationError):
                schema.model_validate({**node, name: ["observing.Counts"]})


def test_what_a_forged_folder_names_is_not_called(text, tmp_path, observed):
    """A record, a kept configuration and settings that name a callback: opening and training again call
    nothing."""
    record = train(request(text, tmp_path), text)
    folder = tmp_path / record.id
    node = json.loads((folder / "record.json").read_text())
    del node["hash"]
    node["provenance"]["settings"]["callbacks"] = [COUNTS]
    node["provenance"] |= {
        "callbacks": ["observing.Counts"],
        "profiler": COUNTS,
        "_target_": "observing.called",
    }
    (folder / "record.json").write_text(json.dumps({**node, "hash": content_hash(node)}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "callbacks": [COUNTS]}))
    open_run(folder)
    train(request(text, tmp_path), text)
    train(request(text, tmp_path, rerun=True), text)
    assert not observed.exists()


def test_the_kept_configuration_names_no_code_and_composes_the_same_run(text, tmp_path, observed):
    from ablate.cli.compose import job

    record = train(request(text, tmp_path, callbacks=(COUNTS,), profiler="simple"), text)
    kept = (tmp_path / record.id / "config.yaml").read_text()
    assert "observing" not in kept and "_target_" not in kept
    config = yaml.safe_load(kept)
    del config["hydra"]
    assert job(config).id == record.id


def test_modules_are_imported_by_name_in_known_places_only():
    """Where the package turns text into code. A new place must say whose text that is."""
    known = {
        "__init__.py": "the public names of the package",
        "engine/worker.py": "functions that the package names itself",
        "model/hf/code/__init__.py": "the file that was just made of the package's own sources",
        "parts/kernel/flash.py": "one library by its fixed name",
        "registry.py": "parts that the user names",
        "train/observers.py": "callbacks that the user names",
    }
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in ("import_module", "instantiate", "exec", "__import__", "spec_from_file_location"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found <= set(known), found - set(known)
    assert "train/observers.py" in found
