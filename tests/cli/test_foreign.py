"""Models of others: a Hugging Face folder and an imported one are used as runs are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from test_conf import CONF
from test_hf import edit, saved
from test_trained import a_run
from training import write_text

from ablate.__main__ import main
from ablate.cli.compose import ConfigError, job
from ablate.cli.exchange import measure_like, parse_size
from ablate.data.prepare import prepare
from ablate.measure.trained import RunNotLoadable, open_run
from ablate.model.hf import CheckpointFormatError
from ablate.model.hf.canonical import canonical
from ablate.model.hf.opened import open_foreign
from ablate.record import RunRecord
from ablate.registry import tokenizer
from ablate.spec import RunSpec
from ablate.train.evaluate import evaluate
from ablate.train.fit import fit
from ablate.train.state.weights import WEIGHTS_FILE, fitting

SILU = {"ffn": {"name": "glu", "width": 40, "activation": "silu"}}


def a_llama(folder: Path) -> Path:
    """A run whose model is a small LLaMA of bytes, on some text."""
    a_run(folder, **SILU)  # type: ignore[arg-type]
    record = RunRecord.load(folder)
    text = write_text(folder)
    spec = {**record.spec, "data": {**record.spec["data"], "source": {"name": "text", "files": [str(text)]}}}
    record.model_copy(update={"spec": spec}).save(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The same model as a run, as a Hugging Face folder, and imported from there."""
    there = tmp_path_factory.mktemp("models")
    run = a_llama(there / "run")
    assert main(["export", str(run), str(there / "hub")]) == 0
    assert main(["import", str(there / "hub"), str(there / "imported")]) == 0
    return {"run": run, "hub": there / "hub", "imported": there / "imported"}


@pytest.fixture(params=["hub", "imported"])
def foreign(request, folders) -> Path:
    return folders[request.param]


def test_it_is_generated_from(folders, foreign, capsys):
    options = ["--prompt", "def ", "--tokens", "12", "--seed", "3"]
    assert main(["generate", str(folders["run"]), *options]) == 0
    said = capsys.readouterr().out
    assert main(["generate", str(foreign), *options]) == 0
    assert capsys.readouterr().out == said and len(said) > 6


def test_it_is_measured_on_the_text_of_a_run(folders, foreign, tmp_path, capsys):
    found = measure_like(foreign, ["heldout"], folders["run"], tmp_path / "cache").metrics
    run = open_run(folders["run"])
    spec = RunSpec.model_validate(run.record.spec)
    split = prepare(spec.data, tmp_path / "cache").splits["heldout"]
    loss = evaluate(run.decoder, split, spec.model.context, "joined", 16).loss
    assert found["heldout/loss"] == pytest.approx(loss, rel=1e-6)
    like = ["--like", str(folders["run"]), "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", str(foreign), "heldout", *like]) == 0
    assert f"{loss:.6g}" in capsys.readouterr().out
    assert main(["evaluate", str(foreign), "stability", *like]) == 2
    assert "measure stability: is of how a run was trained" in capsys.readouterr().err
    assert main(["evaluate", str(folders["run"]), "heldout", *like]) == 2
    assert "a run has a text of its own" in capsys.readouterr().err
    assert main(["evaluate", str(foreign), "heldout"]) == 2
    assert "is no run; say which run's text" in capsys.readouterr().err


def test_it_is_exported_with_its_tokenizer(foreign, tmp_path, capsys):
    assert main(["export", str(foreign), str(tmp_path / "again"), "--dtype", "bfloat16"]) == 0
    ours = open_foreign(foreign).state
    for name, tensor in open_foreign(tmp_path / "again").state.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, ours[name].bfloat16())
    words = "tokenizer/tokenizer.json" if (foreign / "model.json").exists() else "tokenizer.json"
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (foreign / words).read_bytes()


def composed(foreign: Path, folder: Path, *overrides: str) -> object:
    there = foreign / "tokenizer" if (foreign / "model.json").exists() else foreign
    given = [
        *("data=text", f"data.source.files=[{write_text(folder)}]", "data/tokenizer=saved", "trainer=cpu"),
        *(
            f"data.tokenizer.path={there}",
            f"init_from={foreign}",
            f"runs={folder}/runs",
            f"cache={folder}/cache",
        ),
        *("budget.tokens=192", "budget.batch_tokens=48", "evaluation.every=0", "evaluation.tokens=100"),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return job(compose("train", [*given, *overrides]))


def test_it_is_continued(foreign, folders, tmp_path):
    todo = composed(foreign, tmp_path, "model=started", "+model.context=12", "optim.lr=1e-9")
    assert canonical(todo.spec.model) == canonical(open_foreign(foreign).spec) | {"context": 12}
    settings = todo.settings.model_copy(update={"progress": False})
    record = fit(todo.spec, todo.prepared, settings, tmp_path / "runs", start=todo.rest.init_from)
    assert record.status == "finished"
    assert record.spec["parent"] == open_foreign(foreign).id
    kept = load_file(tmp_path / "runs" / record.id / WEIGHTS_FILE)
    for name, tensor in load_file(folders["run"] / WEIGHTS_FILE).items():
        torch.testing.assert_close(kept[name], tensor, atol=1e-6, rtol=0)


def test_both_forms_have_one_id(folders):
    assert open_foreign(folders["hub"]).id == open_foreign(folders["imported"]).id


def test_another_model_or_tokenizer_does_not_continue_it(foreign, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from: the model is not the one in .*model=started takes it"):
        composed(foreign, tmp_path, "model=llama", "model/size=tiny", "model.context=24")
    with pytest.raises(ConfigError, match="tokens of another tokenizer"):
        composed(foreign, tmp_path, "model=started", "data.tokenizer.end=a")
    with pytest.raises(ConfigError, match=r"model=started: .* give init_from="):
        composed(foreign, tmp_path, "model=started", "init_from=null")


def test_a_change_to_a_started_model_reaches_every_layer(tmp_path):
    folder = saved("qwen2_windows", tmp_path / "qwen")
    from ablate.train.state.warm_start import started_model

    model = started_model(folder, {"position": {"base": 77.0}})
    assert {layer["position"]["base"] for layer in model["variants"].values()} == {77.0}


def test_an_imported_folder_that_changed_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["imported"], tmp_path / "changed")
    state = load_file(folder / WEIGHTS_FILE)
    state["embedding.weight"][0, 0] += 1
    save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(RunNotLoadable, match="no longer those that were imported"):
        open_run(folder)
    with (
        pytest.raises(CheckpointFormatError, match="no longer those that were imported"),
        fitting(state, folder / WEIGHTS_FILE),
    ):
        pass


def test_an_imported_folder_has_weights_to_begin_with(folders):
    state = load_file(folders["imported"] / WEIGHTS_FILE)
    with fitting(state, folders["imported"] / WEIGHTS_FILE) as theirs:
        assert set(theirs.keys()) == set(state)


def test_without_a_tokenizer_it_has_no_words_but_can_be_exported(folders, tmp_path, capsys):
    folder = shutil.copytree(folders["hub"], tmp_path / "dumb")
    (folder / "tokenizer.json").unlink()
    assert main(["generate", str(folder), "--prompt", "a"]) == 2
    assert "has no tokenizer.json with a token that ends a document" in capsys.readouterr().err
    assert main(["import", str(folder), str(tmp_path / "in")]) == 0
    assert "no tokenizer.json" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        composed(folders["hub"], tmp_path, "model=started", f"init_from={folder}")


def test_the_end_of_a_document_may_be_a_number_of_the_config(folders, tmp_path):
    """As GPT-2's files have it."""
    folder = shutil.copytree(folders["hub"], tmp_path / "numbered")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    del about["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    assert open_foreign(folder).tokenizer.end == 256
    edit(folder, eos_token_id=[256, 3])
    assert open_foreign(folder).tokenizer.end == 256


def test_a_key_that_changes_nothing_is_ignored_by_name(folders, tmp_path, capsys):
    folder = shutil.copytree(folders["hub"], tmp_path / "noted")
    edit(folder, my_note=3)
    assert main(["import", str(folder), str(tmp_path / "a")]) == 2
    assert "unknown my_note; `python -m ablate import --ignore KEY`" in capsys.readouterr().err
    assert main(["import", str(folder), str(tmp_path / "a"), "--ignore", "my_note"]) == 0
    assert main(["import", str(folder), str(tmp_path / "b"), "--ignore", "hidden_act"]) == 2
    assert "hidden_act: this key decides what a llama computes" in capsys.readouterr().err
    assert main(["import", str(folder), str(tmp_path / "b"), "--ignore", "rope_scaling"]) == 2
    assert main(["import", str(folder), str(tmp_path / "b"), "--ignore", "nonesuch"]) == 2
    assert "config.json has no such key" in capsys.readouterr().err


def test_an_import_that_is_killed_leaves_no_folder(folders, tmp_path, monkeypatch):
    import ablate.model.hf.opened as opened

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opened, "copy_tokenizer", killed)
    assert main(["import", str(folders["hub"]), str(tmp_path / "in")]) == 130
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert main(["import", str(folders["hub"]), str(tmp_path / "in")]) == 0
    assert main(["import", str(folders["hub"]), str(tmp_path / "in")]) == 2


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe", "symbols"])
def test_other_programs_read_the_same_tokens(name, tmp_path):
    import tokenizers

    texts = ["def f(x):\n    return  x\n", "a=b", "café — 日本 \t<|end", ""]
    texts = ["1 =22 333", "=4", ""] if name == "symbols" else texts
    ours = tokenizer.build({"name": name, "vocab": 300} if name == "bpe" else name)
    ours.learn(iter(texts * 30))
    words = ours.portable()
    theirs = tokenizers.Tokenizer.from_str(words.text)
    for text in texts:
        numbers = ours.encode([text])[0]
        assert theirs.encode(text).ids == numbers
        if name != "symbols":
            assert theirs.decode(numbers) == text
    assert ours.end == (None if words.end is None else theirs.token_to_id(words.end))


def test_sizes_are_read():
    assert [parse_size(text) for text in ("5GB", "20kb", "7")] == [5 * 10**9, 20_000, 7]
    for text in ("", "GB", "-1MB", "1.5GB", "0", "٣GB"):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(text)


def test_the_logits_are_those_of_the_run(folders, foreign, tokens):
    with torch.no_grad():
        assert torch.equal(open_run(foreign).decoder(tokens), open_run(folders["run"]).decoder(tokens))


def test_a_tokenizer_of_a_folder_is_read_with_bounds(folders, tmp_path):
    folder = shutil.copytree(folders["hub"], tmp_path / "endless")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointFormatError, match=r"tokenizer\.json is no regular file"):
        open_foreign(folder)
