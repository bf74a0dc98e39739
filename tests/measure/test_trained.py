"""A finished run, opened: it speaks, or says why it cannot be opened."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from training import run_spec

from ablate.measure.trained import Unopened, open_run, sample_text, stream_text
from ablate.model.decoder import Decoder
from ablate.record import RunRecord
from ablate.registry import tokenizer


def a_run(folder: Path, **model: int) -> Path:
    """What training leaves behind, of a small model of bytes."""
    spec = run_spec(folder / "text", model)
    bytes_ = tokenizer.build("bytes")
    RunRecord(
        id="abc",
        status="finished",
        code="0",
        spec=spec.model_dump(mode="json"),
        fingerprint={"source": "", "tokenizer": bytes_.hash()},
    ).save(folder)
    (folder / "weights").mkdir()
    decoder = Decoder(spec.model).init_parameters(0)
    save_file(decoder.state_dict(), folder / "weights" / "model.safetensors")
    return folder


def test_a_run_speaks(tmp_path):
    run = open_run(a_run(tmp_path / "abc"))
    options = {"temperature": 1.0, "top_k": 40, "seed": 3}
    text = sample_text(run, "def ", 30, **options)
    assert text.startswith("def ") and len(text) > 4
    pieces = list(stream_text(run, "def ", 30, **options))
    assert len(pieces) > 1 and "".join(pieces) == text[4:]
    stop = text[8:10]
    assert "".join(stream_text(run, "def ", 30, stop=[stop], **options)) == text[4:][: text[4:].index(stop)]
    assert sample_text(run, "", 5, **options)  # begins a document


def test_tokens_that_the_tokenizer_does_not_have_say_nothing(tmp_path):
    run = open_run(a_run(tmp_path / "abc", vocab=4000))
    said = sample_text(run, "def ", 30, temperature=1.0)
    assert said.startswith("def ") and len(said) < 20
    assert "".join(stream_text(run, "def ", 30, temperature=1.0)) == said[4:]


def test_a_run_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(Unopened, match="no finished run here"):
        open_run(tmp_path / "nothing")
    folder = a_run(tmp_path / "abc")
    weights = folder / "weights" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unopened, match="damaged"):
        open_run(folder)
    weights.unlink()
    with pytest.raises(Unopened, match=r"no weights were kept.*keep=weights"):
        open_run(folder)
    record = json.loads((folder / "record.json").read_text())
    weights.write_bytes(whole)
    (folder / "record.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(Unopened, match="the run is interrupted, not finished"):
        open_run(folder)
    (folder / "record.json").write_text(json.dumps({**record, "fingerprint": {"tokenizer": "other"}}))
    with pytest.raises(Unopened, match="not the tokenizer"):
        open_run(folder)
    record["spec"]["model"]["depth"] = 2
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(Unopened, match="does not fit the model"):
        open_run(folder)
    record["spec"]["model"]["norm"] = "mine"
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(Unopened, match="no norm is called 'mine'"):
        open_run(folder)
    (folder / "record.json").write_text("{")
    with pytest.raises(Unopened, match="not a record"):
        open_run(folder)
