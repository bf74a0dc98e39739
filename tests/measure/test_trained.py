"""A finished run, opened: it speaks, or says why it cannot be opened."""

import json
from pathlib import Path
from typing import Any

import pytest
from training import run_spec

from ablate.measure import trained as module
from ablate.measure.trained import RunNotLoadable, Trained, continue_texts, open_run, sample_text, stream_text
from ablate.model.decoder import Decoder
from ablate.record import RunRecord
from ablate.registry import tokenizer
from ablate.train.state.weights import WEIGHTS_FILE, file_hash, save


def a_run(folder: Path, **model: int) -> Path:
    """What training leaves behind, of a small model of bytes."""
    spec = run_spec(folder / "text", model)
    bytes_ = tokenizer.build("bytes")
    decoder = Decoder(spec.model).init_parameters(0)
    RunRecord(
        id="abc",
        status="finished",
        source_hash="0",
        spec=spec.model_dump(mode="json"),
        fingerprint={"source": "", "tokenizer": bytes_.hash()},
        weights_hash=save(decoder.state_dict(), folder / WEIGHTS_FILE),
    ).save(folder)
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


WORDS = ["<s>", "</s>", "<unk>", "\u2581you", "\u2581the", "\u2581cat", "s", "\u2581", "t", "h", "e"]
WORDS += ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]


def sentence_pieces(folder: Path, strip: bool) -> Any:
    """A tokenizer of the LLaMA kind: a space is a mark on the word after it, rare characters are bytes."""
    model = {"type": "BPE", "vocab": {word: n for n, word in enumerate(WORDS)}, "merges": []}
    model |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    steps = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    node = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    node |= {"pre_tokenizer": None, "post_processor": None, "model": model}
    node |= {"decoder": {"type": "Sequence", "decoders": steps[: 4 if strip else 3]}}
    (folder / "tokenizer.json").write_text(json.dumps(node))
    made = tokenizer.build({"name": "saved", "path": str(folder), "end": "</s>"})
    made.learn(iter(()))
    return made


@pytest.mark.parametrize("strip", [True, False])
def test_the_space_before_a_new_word_is_kept(tmp_path, monkeypatch, strip):
    words = sentence_pieces(tmp_path, strip)
    you, the, cat, smile = 3, 4, 5, [11, 12, 13, 14]
    new = [the, cat, 6, *smile, the]
    monkeypatch.setattr(words, "encode", lambda texts: [[you]] * len(texts))
    monkeypatch.setattr(module, "complete", lambda _, prompts, *__, **___: [new] * len(prompts))
    monkeypatch.setattr(module, "generate", lambda *_, **__: iter([[token] for token in new]))
    run = Trained(None, words, None)
    assert continue_texts(run, ["you", "you"], 9) == [" the cats\N{SLIGHTLY SMILING FACE} the"] * 2
    pieces = list(stream_text(run, "you", 9))
    assert pieces == [" the", " cat", "s", "\N{SLIGHTLY SMILING FACE}", " the"]
    for stop, left in ((" the", ""), (" cat", " the"), ("s", " the cat")):
        assert continue_texts(run, ["you"], 9, stop=[stop]) == [left]
        assert "".join(stream_text(run, "you", 9, stop=[stop])) == left


def test_numbers_go_on_after_a_space(monkeypatch):
    monkeypatch.setattr(module, "complete", lambda *_, **__: [[7, 12]])
    run = Trained(None, tokenizer.build({"name": "symbols", "vocab": 16}), None)
    assert continue_texts(run, ["1 2"], 2) == [" 7 12"]


def test_a_run_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(RunNotLoadable, match="no finished run here"):
        open_run(tmp_path / "nothing")
    folder = a_run(tmp_path / "abc")
    weights = folder / "weights" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunNotLoadable, match="damaged"):
        open_run(folder)
    weights.unlink()
    with pytest.raises(RunNotLoadable, match=r"no weights were kept.*keep=weights"):
        open_run(folder)
    record = RunRecord.load(folder)
    weights.write_bytes(whole)
    record.model_copy(update={"status": "interrupted"}).save(folder)
    with pytest.raises(RunNotLoadable, match="the run is interrupted, not finished"):
        open_run(folder)
    record.model_copy(update={"fingerprint": {"tokenizer": "other"}}).save(folder)
    with pytest.raises(RunNotLoadable, match="not the tokenizer"):
        open_run(folder)
    record.spec["model"]["depth"] = 2
    record.save(folder)
    with pytest.raises(RunNotLoadable, match="does not fit the model"):
        open_run(folder)
    record.spec["model"]["norm"] = "mine"
    record.save(folder)
    with pytest.raises(RunNotLoadable, match="no norm is called 'mine'"):
        open_run(folder)
    (folder / "record.json").write_text("{")
    with pytest.raises(RunNotLoadable, match="not a record"):
        open_run(folder)


def flip(file: Path, place: int, bit: int) -> None:
    """One bit of a file, as a disk may lose it."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def test_one_flipped_bit_of_the_weights_is_refused(tmp_path):
    folder = a_run(tmp_path / "abc")
    assert RunRecord.load(folder).weights_hash == file_hash(folder / WEIGHTS_FILE)
    flip(folder / WEIGHTS_FILE, -1001, 6)
    with pytest.raises(RunNotLoadable, match=r"model\.safetensors is damaged.*rerun=true"):
        open_run(folder)


def test_weights_without_a_hash_are_refused(tmp_path):
    folder = a_run(tmp_path / "abc")
    RunRecord.load(folder).model_copy(update={"weights_hash": ""}).save(folder)
    with pytest.raises(RunNotLoadable, match=r"model\.safetensors cannot be checked.*rerun=true"):
        open_run(folder)
