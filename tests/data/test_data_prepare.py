"""The token cache is right, whole or absent, made once, and made anew when damaged."""

import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.data import pieces, sound
from ablate.data import prepare as module
from ablate.data.prepare import Prepared, prepare
from ablate.data.source import SPLITS, DataError, NetworkError, Source
from ablate.data.source.hub import Hub
from ablate.data.tokenizer import TokenizerError
from ablate.registry import registries
from ablate.spec import DataSpec

STORIES = [f"Story {n}\nabout thé number {n}." for n in range(300)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("\n\n".join(STORIES), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def spec(file: Path | str, tokenizer: Any = "bytes", **options: Any) -> DataSpec:
    return DataSpec(source={"name": "text", "files": [str(file)], **options}, tokenizer=tokenizer)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were built."""
    built: list[Path] = []
    build = module.build

    def count(folder: Path, *rest: Any) -> None:
        built.append(folder)
        build(folder, *rest)

    monkeypatch.setattr(module, "build", count)
    return built


def documents(prepared: Prepared, split: str) -> list[str]:
    """The text back from the tokens."""
    here = prepared.splits[split]
    ends = [*here.document_offsets[1:], len(here.tokens)]
    assert all(here.tokens[end - 1] == prepared.tokenizer.end for end in ends)
    return [
        prepared.tokenizer.decode(here.tokens[a:b].tolist())
        for a, b in zip(here.document_offsets, ends, strict=True)
    ]


@pytest.mark.parametrize("tokenizer", ["bytes", {"name": "bpe", "vocab": 300}])
def test_the_cache_holds_the_text(file: Path, cache: Path, tokenizer: Any) -> None:
    prepared = prepare(spec(file, tokenizer, validation=0.2, heldout=0.2), cache)
    found = {split: documents(prepared, split) for split in SPLITS}
    assert sorted(chain(*found.values())) == sorted(STORIES)
    for name, split in prepared.splits.items():
        size = sum(len(text.encode()) for text in found[name])
        assert split.bytes == size
        assert split.bytes_per_token == size / len(split.tokens)
        assert isinstance(split.tokens, np.memmap)
        assert split.tokens.dtype == np.uint16
        assert split.document_offsets.dtype == np.int64
    assert prepared.vocab == prepared.tokenizer.vocab
    assert set(prepared.fingerprint) == {"source", "tokenizer"}


def test_large_vocabularies_take_four_bytes(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate.data.tokenizer.bytes import Bytes

    monkeypatch.setattr(Bytes, "vocab", 70_000)
    prepared = prepare(spec(file), cache)
    assert prepared.splits["train"].tokens.dtype == np.uint32
    assert set(documents(prepared, "train")) <= set(STORIES)


def test_nanogpt_split_of_one_file(file: Path, cache: Path) -> None:
    whole = file.read_text(encoding="utf-8")
    prepared = prepare(
        spec(file, {"name": "characters", "end": False}, split="tail", validation=0.1, heldout=0.0), cache
    )
    letters = sorted(set(whole[: int(len(whole) * 0.9)]))
    ids = np.array([letters.index(c) for c in whole])
    assert (prepared.splits["train"].tokens == ids[: int(len(ids) * 0.9)]).all()
    assert (prepared.splits["validation"].tokens == ids[int(len(ids) * 0.9) :]).all()
    assert len(prepared.splits["heldout"].tokens) == 0
    assert np.isnan(prepared.splits["heldout"].bytes_per_token)


def test_a_long_document_comes_in_pieces_and_whole_again(
    cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 10)
    file.write_text("\n".join(STORIES[:30]) + "x" * 55, encoding="utf-8")
    prepared = prepare(spec(file, split="tail", validation=0.1, heldout=0.1), cache)
    assert "".join(documents(prepared, s)[0] for s in SPLITS) == file.read_text(encoding="utf-8")
    assert all(len(split.document_offsets) == 1 for split in prepared.splits.values())


def test_the_second_call_reads_no_text(
    file: Path, cache: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablate.data.source.text import Text

    one = prepare(spec(file), cache)
    monkeypatch.setattr(Text, "documents", lambda *_: pytest.fail("the text was read again"))
    monkeypatch.setattr(module, "sha256", lambda _: pytest.fail("the cache was hashed again"))
    other = prepare(spec(file), cache)
    assert other.fingerprint == one.fingerprint
    assert len(builds) == 1


def test_the_key_is_the_content(file: Path, cache: Path, tmp_path: Path, builds: list[Path]) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(file.read_bytes())
    one, other = prepare(spec(file), cache), prepare(spec(copy), cache)
    assert (one.fingerprint, one.folder) == (other.fingerprint, other.folder)
    assert len(builds) == 1
    copy.write_text(file.read_text(encoding="utf-8") + "!", encoding="utf-8")
    changed = prepare(spec(copy), cache)
    assert changed.fingerprint["source"] != one.fingerprint["source"]
    assert changed.fingerprint["tokenizer"] == one.fingerprint["tokenizer"]
    prepare(spec(copy, "characters"), cache)
    assert len(builds) == 3


def test_the_fingerprint_knows_nothing_of_the_cache(file: Path, tmp_path: Path) -> None:
    bpe = {"name": "bpe", "vocab": 290}
    one, other = prepare(spec(file, bpe), tmp_path / "a"), prepare(spec(file, bpe), tmp_path / "b")
    assert one.fingerprint == other.fingerprint
    assert one.files == other.files


WAYS = {
    "truncated": lambda f: f.joinpath("train.tokens").write_bytes(
        f.joinpath("train.tokens").read_bytes()[:-2]
    ),
    "flipped": lambda f: flip(f / "validation.tokens"),
    "document_offsets": lambda f: flip(f / "heldout.starts.npy"),
    "tokenizer": lambda f: flip(f / "tokenizer.json"),
    "missing": lambda f: f.joinpath("heldout.tokens").unlink(),
    "manifest missing": lambda f: f.joinpath("cache.json").unlink(),
    "manifest cut": lambda f: f.joinpath("cache.json").write_text("{"),
    "manifest of another": lambda f: f.joinpath("cache.json").write_text(
        json.dumps({"content": 0, "sizes": {}, "files": {}})
    ),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_cache_is_made_anew(
    file: Path, cache: Path, builds: list[Path], caplog: pytest.LogCaptureFixture, way: str
) -> None:
    data = spec(file, {"name": "bpe", "vocab": 280})
    before = prepare(data, cache)
    held = {name: np.array(split.tokens) for name, split in before.splits.items()}
    WAYS[way](before.folder)
    with caplog.at_level(logging.WARNING, "ablate.data"):
        after = prepare(data, cache)
    assert "is damaged" in caplog.text
    assert len(builds) == 2
    assert all((held[name] == split.tokens).all() for name, split in after.splits.items())
    assert after.files == before.files
    assert [p.name for p in cache.iterdir() if p.is_dir()] in (
        ["texts", after.folder.name],
        [after.folder.name, "texts"],
    )


def halved(held: dict[str, Any]) -> None:
    held["counts"]["train"]["tokens"] //= 2


def fewer_bytes(held: dict[str, Any]) -> None:
    held["counts"]["train"]["bytes"] -= 1


def wider(held: dict[str, Any]) -> None:
    held["dtype"] = "uint32"


@pytest.mark.parametrize("edit", [halved, fewer_bytes, wider])
def test_an_edited_manifest_is_noticed(file: Path, cache: Path, builds: list[Path], edit: Any) -> None:
    before = prepare(spec(file), cache)
    manifest = before.folder / "cache.json"
    held = json.loads(manifest.read_bytes())
    edit(held)
    manifest.write_text(json.dumps(held))
    after = prepare(spec(file), cache)
    assert len(builds) == 2
    assert (after.splits["train"].tokens == before.splits["train"].tokens).all()
    assert after.splits["train"].bytes == before.splits["train"].bytes


@pytest.mark.parametrize("edit", [halved, wider])
def test_tokens_take_the_bytes_of_their_file_whatever_the_hash_says(
    file: Path, cache: Path, builds: list[Path], edit: Any
) -> None:
    manifest = prepare(spec(file), cache).folder / "cache.json"
    held = json.loads(manifest.read_bytes())
    edit(held)
    del held["hash"]
    manifest.write_text(json.dumps({**held, "hash": module.content_hash(held)}))
    prepare(spec(file), cache)
    assert len(builds) == 2


class Numbers(Source):
    """Examples of a task, whose answers are marked."""

    def documents(self, split: str) -> Iterator[str]:
        return (f"{n} {n + 1} ={n + 2}" for n in range(40))


@pytest.mark.parametrize("flips", [150, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tokenizer", [{"name": "bpe", "vocab": 280}, "symbols"])
def test_no_flipped_bit_is_taken_for_text(
    file: Path, cache: Path, tokenizer: Any, flips: int, own_parts: None
) -> None:
    """Of all bits of a cache and of what is remembered beside it, with times that say nothing."""
    registries["source"]("numbers", paper="mine")(Numbers)
    examples = tokenizer == "symbols"
    data = DataSpec(source="numbers", tokenizer=tokenizer) if examples else spec(file, tokenizer)
    folder = prepare(data, cache).folder
    manifest = folder / "cache.json"
    content = json.loads(manifest.read_bytes())["content"]
    files = [path for path in folder.iterdir() if path.name != "untouched.json"] + [*cache.glob("texts/*")]
    assert {path.suffix for path in files} >= {".tokens", ".npy", ".json"}
    draw = random.Random(0)
    noticed = 0
    for _ in range(flips):
        path = draw.choice(files)
        before = path.read_bytes()
        after = bytearray(before)
        after[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        path.write_bytes(after)
        sound.HASHED.clear()  # as in a new process
        if path.parent == folder:
            wrong = sound.cache_damage(folder, content)
        else:
            wrong = module.recall(path) != {k: json.loads(before)[k] for k in ("change_stamp", "manifest")}
        try:
            harmless = path.suffix == ".json" and json.loads(bytes(after)) == json.loads(before)  # a space
        except ValueError:
            harmless = False
        assert wrong or harmless, (path, before, after)
        noticed += bool(wrong)
        path.write_bytes(before)
    assert noticed > 0.9 * flips
    assert not sound.cache_damage(folder, content)


def test_a_large_cache_is_hashed_only_where_it_was_touched(
    file: Path, cache: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound, "LARGE", 1)
    folder = prepare(spec(file), cache).folder
    sound.HASHED.clear()
    with monkeypatch.context() as patched:
        patched.setattr(sound, "sha256", lambda _: pytest.fail("the cache was hashed again"))
        prepare(spec(file), cache)
    flip(folder / "train.tokens")
    prepare(spec(file), cache)
    assert len(builds) == 2


def test_a_damaged_memory_of_the_manifest_is_no_matter(file: Path, cache: Path) -> None:
    one = prepare(spec(file), cache)
    (memo,) = (cache / "texts").iterdir()
    for content in ("{", "[]", '{"stamp": 1}'):
        memo.write_text(content)
        assert prepare(spec(file), cache).fingerprint == one.fingerprint


def test_a_failure_leaves_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sha256", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(spec(file), cache)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == ["texts"]
    monkeypatch.undo()
    assert len(prepare(spec(file), cache).splits["train"].tokens) > 0


def test_what_a_killed_process_left_is_cleared(file: Path, cache: Path) -> None:
    folder = prepare(spec(file), cache).folder
    left = folder.with_name(f".{folder.name}.0123")
    folder.rename(left)
    prepare(spec(file), cache)
    assert not left.exists()


def test_text_that_changes_while_it_is_read_is_refused(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = module.fill_cache

    def meanwhile(*rest: Any) -> None:
        fill(*rest)
        file.write_text("other", encoding="utf-8")

    monkeypatch.setattr(module, "fill_cache", meanwhile)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(spec(file), cache)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == ["texts"]


PROCESS = """
import json, sys, time
from pathlib import Path

from ablate.data import prepare as module
from ablate.spec import DataSpec

fill = module.fill_cache
def slow(*rest):
    with open(sys.argv[3], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    fill(*rest)
module.fill_cache = slow
data = DataSpec(source={"name": "text", "files": [sys.argv[1]]}, tokenizer={"name": "bpe", "vocab": 300})
found = module.prepare(data, Path(sys.argv[2]))
print(json.dumps([found.fingerprint, found.files, int(found.splits["train"].tokens.sum())]))
"""


def test_processes_that_start_at_once_build_once_and_agree(file: Path, cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(file), str(cache), str(log)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert log.read_text() == "built\n"


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe"])
def test_an_empty_training_split_is_refused(file: Path, cache: Path, tokenizer: str) -> None:
    file.write_text("x", encoding="utf-8")
    with pytest.raises(
        (DataError, TokenizerError), match=r"(train split is empty|training split has no text)"
    ):
        prepare(spec(file, tokenizer, split="tail", validation=0.4, heldout=0.4), cache)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == ["texts"]


def test_an_empty_validation_split_is_refused(file: Path, cache: Path) -> None:
    file.write_text("one document only", encoding="utf-8")
    with pytest.raises(DataError, match=r"split is empty.*data\.source\.split=tail"):
        prepare(spec(file), cache)


def test_characters_that_training_never_saw(file: Path, cache: Path) -> None:
    file.write_text("a" * 95 + "b" * 5, encoding="utf-8")
    with pytest.raises(TokenizerError, match="'b'"):
        prepare(spec(file, "characters", split="tail", validation=0.05, heldout=0.0), cache)


# ---------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    def rows(self: Hub, split: str) -> Iterator[str]:
        for number, story in enumerate(STORIES):
            if number > 250:
                pytest.fail("read on when there were enough tokens")
            yield f"{split} {story}"

    monkeypatch.setattr(pieces, "BATCH", 100)  # how far it reads ahead
    monkeypatch.setattr(Hub, "_rows", rows)
    monkeypatch.setattr(Hub, "commit", "1" * 40)
    source = {"name": "hub", "path": "a/b", "validation": 10, "heldout": 5, "tokens": 1000}
    return DataSpec(source=source, tokenizer="characters")


def test_a_stream_is_read_until_there_are_enough_tokens(hub: DataSpec, cache: Path) -> None:
    prepared = prepare(hub, cache)
    train = documents(prepared, "train")
    tokens = len(prepared.splits["train"].tokens)
    assert 1000 <= tokens < 1000 + len(train[-1]) + 1  # whole documents: the last one may pass the limit
    assert documents(prepared, "validation") == [f"train {s}" for s in STORIES[:10]]
    assert train == [f"train {s}" for s in STORIES[15 : 15 + len(train)]]


def test_a_stream_that_ends_early_says_so(
    hub: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Hub, "_rows", lambda self, split: iter(STORIES[:30]))
    for tokens, ended in ((50, False), (10**6, True)):
        data = DataSpec(source={**hub.source.model_dump(), "tokens": tokens}, tokenizer="bytes")
        with caplog.at_level(logging.WARNING, "ablate.data"):
            prepare(data, cache)
        assert ("of 1000000 training tokens" in caplog.text) == ended


def test_without_a_network_the_last_copy_goes_on(
    hub: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(self: Hub) -> str:
        raise NetworkError("hub: no network")

    one = prepare(hub, cache)
    monkeypatch.setattr(Hub, "commit", property(unreachable))
    with caplog.at_level(logging.WARNING, "ablate.data"):
        other = prepare(hub, cache)
    assert other.fingerprint == one.fingerprint
    assert "Going on with the copy of 1111" in caplog.text
    with pytest.raises(NetworkError):
        prepare(DataSpec(source={"name": "hub", "path": "never/seen"}, tokenizer="bytes"), cache)


def test_the_default_data_is_soon_ready(cache: Path, builds: list[Path]) -> None:
    data = DataSpec(source="stdlib", tokenizer="bytes")
    prepared = prepare(data, cache)
    assert prepare(data, cache).fingerprint == prepared.fingerprint
    assert len(builds) == 1
    train, heldout = (set(documents(prepared, split)) for split in ("train", "heldout"))
    assert len(train - heldout) > 300
    assert sum(len(text) for text in train & heldout) < 1000  # files as good as empty may be equal
