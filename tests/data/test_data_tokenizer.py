"""Tokenizers give back what they were given, and are known by their content."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ablate import registry
from ablate.data.tokenizer import Tokenizer, TokenizerError
from ablate.data.tokenizer.bpe import END_OF_TEXT

TEXTS = [
    "the cat sat on the mat\n",
    "the dog, the hog and the frog; 12 + 30 = 42\n" * 5,
    "naïve café – 日本語 🙂\n",
]


def make(name: str, **options: Any) -> Tokenizer:
    made: Tokenizer = registry.tokenizer.build({"name": name, **options})
    made.learn(iter(TEXTS))
    return made


@pytest.fixture(scope="module")
def learned() -> dict[str, Tokenizer]:
    return {"bytes": make("bytes"), "bpe": make("bpe", vocab=300)}


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@given(
    text=st.text()
    | st.sampled_from([END_OF_TEXT, f"a{END_OF_TEXT}b", "<|endoftext|>", "\r\n \t", "\x00", "\ufeffx"])
)
def test_any_text_comes_back(learned: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = learned[name]
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab and i != tokenizer.end for i in ids)
    assert tokenizer.end is not None
    assert tokenizer.decode([*ids, tokenizer.end]) == text


@pytest.mark.parametrize(
    "options",
    [
        {"name": "bytes"},
        {"name": "characters"},
        {"name": "characters", "end": False},
        {"name": "bpe", "vocab": 290},
    ],
)
def test_saved_and_loaded_is_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    one = make(**options)
    one.save(tmp_path)
    other: Tokenizer = registry.tokenizer.build(options)
    other.load(tmp_path)
    assert (other.vocab, other.end, other.hash()) == (one.vocab, one.end, one.hash())
    assert other.encode(TEXTS) == one.encode(TEXTS)
    assert other.decode(one.encode(TEXTS)[2]) == TEXTS[2]
    for file in tmp_path.iterdir():
        json.loads(file.read_text(encoding="utf-8"))  # JSON and nothing else


def test_hashes_tell_tokenizers_apart() -> None:
    hashes = [
        make("bytes"),
        make("characters"),
        make("characters", end=False),
        make("bpe", vocab=280),
        make("bpe", vocab=290),
    ]
    assert len({t.hash() for t in hashes}) == 5
    assert make("bpe", vocab=290).hash() == hashes[-1].hash()  # learning again learns the same


def test_sizes() -> None:
    assert (make("bytes").vocab, make("bytes").end) == (257, 256)
    characters = len(set("".join(TEXTS)))
    assert (make("characters").vocab, make("characters").end) == (characters + 1, characters)
    assert (make("characters", end=False).vocab, make("characters", end=False).end) == (characters, None)
    assert make("bpe", vocab=270).vocab == 270
    assert make("bpe", vocab=60_000).vocab < 1000  # there is not more to learn from so little text


def test_bpe_learns_from_the_first_bytes_only() -> None:
    whole = make("bpe", vocab=400)
    assert make("bpe", vocab=400, sample=1).vocab < whole.vocab


def test_a_character_unseen_in_training_is_named() -> None:
    with pytest.raises(TokenizerError, match=r"'ß' \(U\+00DF\) is not in the training split"):
        make("characters").encode(["cat", "groß"])


@pytest.mark.parametrize("name", ["characters", "bpe"])
def test_nothing_to_learn_from(name: str) -> None:
    with pytest.raises(TokenizerError, match="training split has no text"):
        registry.tokenizer.build(name).learn(iter([]))


def test_unknown_and_impossible_options_are_refused() -> None:
    for options in (
        {"name": "bpe", "size": 300},
        {"name": "bpe", "vocab": 256},
        {"name": "saved"},
        {"name": "bytes", "vocab": 3},
    ):
        with pytest.raises(ValidationError):
            registry.tokenizer.parse(options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer as others save it."""
    make("bpe", vocab=290).save(tmp_path)
    (tmp_path / "end.json").unlink()
    return tmp_path


def test_saved_takes_folder_or_file(folder: Path) -> None:
    ours = make("bpe", vocab=290)
    for path in (folder, folder / "tokenizer.json"):
        theirs = make("saved", path=str(path), end=END_OF_TEXT)
        assert theirs.encode(TEXTS) == ours.encode(TEXTS)
        assert (theirs.vocab, theirs.end, theirs.hash()) == (ours.vocab, ours.end, ours.hash())


@pytest.mark.parametrize("token", [END_OF_TEXT, {"content": END_OF_TEXT, "lstrip": False}])
def test_saved_finds_the_end_token_in_the_configuration(folder: Path, token: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert make("saved", path=str(folder)).end == 0


def test_saved_is_known_by_content_not_by_path(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine.json"
    elsewhere.write_bytes((folder / "tokenizer.json").read_bytes())
    one, other = (
        make("saved", path=str(folder), end=END_OF_TEXT),
        make("saved", path=str(elsewhere), end=END_OF_TEXT),
    )
    assert one.hash() == other.hash()
    assert one.recipe() == other.recipe()


def test_saved_without_an_end_token_is_refused(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="names no eos_token"):
        make("saved", path=str(folder))
    with pytest.raises(TokenizerError, match=r"'</s>'.* is not one of its tokens"):
        make("saved", path=str(folder), end="</s>")


DAMAGED = [b"{", b"\xff\xfe", b"[" * 100_000, b'{"eos_token": 1']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_configuration_beside_it_is_a_line(folder: Path, content: bytes) -> None:
    (folder / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is damaged"):
        make("saved", path=str(folder))


@pytest.mark.parametrize("content", [[], "eos", 3, {"eos_token": 7}, {"eos_token": {"content": [1]}}])
def test_a_configuration_that_names_no_token_is_a_line(folder: Path, content: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="names no eos_token"):
        make("saved", path=str(folder))


@pytest.mark.parametrize("name", ["characters", "bpe"])
@pytest.mark.parametrize("content", [*DAMAGED, b"{}", b"[]", b"3", b'{"characters": [], "end": true}'])
def test_what_was_saved_and_is_damaged_is_a_line(name: str, content: bytes, tmp_path: Path) -> None:
    made = make(name)
    made.save(tmp_path)
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(TokenizerError):
            registry.tokenizer.build(name).load(tmp_path)
        file.write_bytes(whole)


def test_tokens_that_are_numbered_beyond_all_measure_are_refused(folder: Path) -> None:
    node = json.loads((folder / "tokenizer.json").read_text())
    node["model"]["vocab"]["far"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(node))
    with pytest.raises(TokenizerError, match="tokens are numbered up to 2147483648"):
        make("saved", path=str(folder), end=END_OF_TEXT)


@pytest.mark.parametrize("name", ["bpe", "symbols"])
def test_a_vocabulary_beyond_memory_is_refused_before_it_is_learned(name: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 16777216"):
        registry.tokenizer.parse({"name": name, "vocab": 10**12})


def test_saved_that_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="there is no file"):
        make("saved", path=str(tmp_path / "nowhere"), end=END_OF_TEXT)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"is no tokenizer\.json"):
        make("saved", path=str(tmp_path), end=END_OF_TEXT)


def test_saved_that_loses_text_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import tokenizers

    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "[END]": 1, "the": 2}, unk_token="[UNK]")
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "tokenizer.json"))
    with caplog.at_level(logging.WARNING, "ablate.data"):
        lossy = make("saved", path=str(tmp_path), end="[END]")
    assert (lossy.vocab, lossy.end) == (3, 1)
    assert "does not give back the text" in caplog.text
