"""Sources deal out text the same way every time, and refuse what they cannot read."""

import gzip
import json
import lzma
import shutil
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from ablate import registry
from ablate.data.source import SPLITS, DataError, NetworkError, Source
from ablate.data.source import text as module
from ablate.data.source.stdlib import WITHOUT, deal, modules, total_size

STORIES = [f"Story {n}\nabout the number {n}." for n in range(400)]


def text(*files: Path | str, **options: Any) -> Source:
    made: Source = registry.source.build({"name": "text", "files": [str(f) for f in files], **options})
    return made


def all_splits(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in SPLITS}


def write(path: Path, documents: Iterable[str]) -> Path:
    path.write_text("\n\n".join(documents), encoding="utf-8", newline="")
    return path


# ---------------------------------------------------------------------------------------------- stdlib


def test_stdlib_splits_by_module() -> None:
    source = registry.source.build("stdlib")
    documents = all_splits(source)
    total = sum(len(d.encode()) for split in documents.values() for d in split)
    for split, share in {"train": 0.9, "validation": 0.05, "heldout": 0.05}.items():
        assert sum(len(d.encode()) for d in documents[split]) / total == pytest.approx(share, abs=0.01)
    there = modules()
    assert not WITHOUT & set(there)
    assert set(there) <= sys.stdlib_module_names
    assert sum(map(len, documents.values())) <= sum(map(len, there.values()))
    assert not any("/tests/" in file.as_posix() for files in there.values() for file in files)


def test_stdlib_deals_each_module_once() -> None:
    sizes = {name: total_size(files) for name, files in modules().items()}
    dealt = deal(sizes)
    assert sorted(chain(*dealt.values())) == sorted(sizes)
    assert deal(dict(reversed(sizes.items()))) == dealt


def test_stdlib_manifest_is_stable() -> None:
    one, other = registry.source.build("stdlib"), registry.source.build("stdlib")
    assert one.manifest() == other.manifest()
    assert one.change_stamp() == other.change_stamp()


# ------------------------------------------------------------------------------------------------ text


def test_formats_and_packings_hold_the_same_text(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.txt", STORIES)]
    files.append(tmp_path / "a.jsonl")
    files[-1].write_text("\n".join(json.dumps({"n": n, "text": s}) for n, s in enumerate(STORIES)) + "\n\n")
    files.append(tmp_path / "a.parquet")
    pd.DataFrame({"text": STORIES, "n": range(len(STORIES))}).to_parquet(files[-1])
    for file in list(files):
        for suffix, pack in {".gz": gzip.compress, ".xz": lzma.compress}.items():
            files.append(file.with_name(file.name + suffix))
            files[-1].write_bytes(pack(file.read_bytes()))
    assert len({text(file).manifest() for file in files}) == 1
    assert len(files) == 9
    documents = all_splits(text(files[0]))
    assert sorted(chain(*documents.values())) == sorted(STORIES)
    assert len(documents["train"]) > 300
    assert documents["validation"]
    assert documents["heldout"]


def test_a_column_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": s}) for s in STORIES))
    assert sum(map(len, all_splits(text(tmp_path / "a.jsonl", field="body")).values())) == len(STORIES)


def test_globs_are_sorted_and_each_file_taken_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.txt", [name * 5])
    source = text(tmp_path / "*.txt", tmp_path / "a.txt", split="tail", validation=0.01, heldout=0)
    assert "".join("".join(d) for d in all_splits(source).values()) == "aaaaabbbbbccccc"


def test_manifest_knows_content_and_not_paths(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", STORIES)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "other.txt"
    shutil.copy(one, copy)
    assert text(one).manifest() == text(copy).manifest()
    assert text(one).change_stamp() != text(copy).change_stamp()
    assert text(one).manifest() != text(one, split="tail").manifest()
    assert text(one).manifest() != text(one, validation=0.2).manifest()
    write(copy, [*STORIES[:-1], STORIES[-1] + "!"])
    assert text(one).manifest() != text(copy).manifest()


def test_the_manifest_of_a_source_of_ones_own_holds_its_limit(tmp_path: Path) -> None:
    source = text(write(tmp_path / "a.txt", STORIES))
    whole = source.manifest()
    source.limit = 1000
    less = source.manifest()
    source.limit = 2000
    assert len({whole, less, source.manifest()}) == 3


def test_equal_documents_share_a_split(tmp_path: Path) -> None:
    documents = all_splits(text(write(tmp_path / "a.txt", STORIES * 2), validation=0.3, heldout=0.3))
    whose = [set(documents[split]) for split in SPLITS]
    assert not whose[0] & whose[1]
    assert not whose[0] & whose[2]
    assert not whose[1] & whose[2]


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n\none\r\n still one\r\n \t\r\n\r\ntwo\n\n\n\nthree\n")
    documents = chain(*all_splits(text(tmp_path / "a.txt")).values())
    assert sorted(documents) == ["one\r\n still one", "three", "two"]


def test_tail_is_the_end_of_the_file_as_in_nanogpt(tmp_path: Path) -> None:
    whole = "".join(STORIES) + "é\r\n\n"
    (tmp_path / "a.txt").write_text(whole, encoding="utf-8", newline="")
    cut = int(len(whole) * 0.9)
    source = text(tmp_path / "a.txt", split="tail", validation=0.1, heldout=0.0)
    assert all_splits(source) == {"train": [whole[:cut]], "validation": [whole[cut:]], "heldout": []}
    assert source.absent == ("heldout",)


def test_tail_cuts_the_document_on_the_border(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": c * 10}) for c in "abcdefghij"))
    found = all_splits(text(tmp_path / "a.jsonl", split="tail", validation=0.25, heldout=0.25))
    assert found["train"] == ["a" * 10, "b" * 10, "c" * 10, "d" * 10, "e" * 10]
    assert found["validation"] == ["f" * 10, "g" * 10, "h" * 5]
    assert found["heldout"] == ["h" * 5, "i" * 10, "j" * 10]


def refusal(tmp_path: Path, name: str, content: bytes, **options: Any) -> str:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        all_splits(text(tmp_path / name, **options))
    assert name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("split", ["document", "tail"])
def test_empty_files_are_refused(tmp_path: Path, split: str) -> None:
    assert "has no text" in refusal(tmp_path, "a.txt", b"", split=split)
    assert "has no text" in refusal(tmp_path, "a.jsonl", b"\n\n", split=split)


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    bad = "héllo\nwörld\n".encode() + b"abc\xff\n"
    assert f", byte {len(bad) - 2}: 0xff is not UTF-8" in refusal(tmp_path, "a.txt", bad)
    assert f", unpacked byte {len(bad) - 2}: 0xff" in refusal(tmp_path, "a.txt.gz", gzip.compress(bad))
    assert ", byte 4: 0xff is not UTF-8" in refusal(tmp_path, "a.txt", BOM_UTF8 + b"a\xff")
    assert ", byte 11: 0xe9 is not UTF-8" in refusal(tmp_path, "a.jsonl", b'{"text": "x\xe9"}')


@pytest.mark.parametrize("split", ["document", "tail"])
@pytest.mark.parametrize(("name", "row"), [("a.txt", "é{}\n\n"), ("a.jsonl", '{{"text": "é{}"}}\n')])
def test_a_byte_order_mark_is_no_text(name: str, row: str, split: str, tmp_path: Path) -> None:
    content = "".join(row.format(n) for n in range(100))
    found = []
    for mark, pack, end in ((b"", bytes, ""), (BOM_UTF8, bytes, ""), (BOM_UTF8, gzip.compress, ".gz")):
        (tmp_path / f"{name}{end}").write_bytes(pack(mark + content.encode()))
        found.append(all_splits(text(tmp_path / f"{name}{end}", split=split)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_packed_files_are_refused(tmp_path: Path, suffix: str, pack: Any) -> None:
    packed = pack("".join(STORIES).encode())
    middle = len(packed) // 2
    flipped = (
        packed[:middle] + bytes([packed[middle] ^ 0xFF, packed[middle + 1] ^ 0xFF]) + packed[middle + 2 :]
    )
    for content in (packed[:middle], packed[:-3], b"not packed at all", flipped):
        assert "is damaged or cut short" in refusal(tmp_path, "a.txt" + suffix, content)


def test_rows_without_text_are_refused(tmp_path: Path) -> None:
    assert "line 2: there is no field 'text'; there is n" in refusal(
        tmp_path, "a.jsonl", b'{"text": "a"}\n{"n": 1}'
    )
    assert "line 1: field 'text' is int, not text" in refusal(tmp_path, "b.jsonl", b'{"text": 1}')
    assert "line 1: no JSON" in refusal(tmp_path, "c.jsonl", b"{text}")
    assert "line 1: there is no field" in refusal(tmp_path, "d.jsonl", b"[1]")
    assert "half a surrogate pair" in refusal(tmp_path, "e.jsonl", b'{"text": "a\\ud800"}')
    pd.DataFrame({"body": ["a"]}).to_parquet(tmp_path / "f.parquet")
    content = (tmp_path / "f.parquet").read_bytes()
    assert "no column 'text'; there is body" in refusal(tmp_path, "f.parquet", content)
    assert "row 2: field 'body' is NoneType" in refusal(
        tmp_path, "g.parquet", parquet(["a", None]), field="body"
    )
    assert "is damaged" in refusal(tmp_path, "h.parquet", content[: len(content) // 2])


def parquet(column: list[Any]) -> bytes:
    content: bytes = pd.DataFrame({"body": column}).to_parquet(None)
    return content


ODD = {
    "digits": ('"n": ' + "1" * 5000, "no JSON .*5000 digits"),
    "lists": ('"n": ' + "[" * 50_000 + "]" * 50_000, "lists within lists, too deep"),
    "objects": ('"n": ' + '{"a":' * 50_000 + "1" + "}" * 50_000, "lists within lists, too deep"),
}


@pytest.mark.parametrize("name", ODD)
def test_rows_that_cannot_be_read_are_a_line(tmp_path: Path, name: str) -> None:
    more, said = ODD[name]
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{{"text": "x", {more}}}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2: {said}"):
        text(tmp_path / "a.jsonl").manifest()


def test_a_column_that_is_not_utf8_is_a_line(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array([b"fine", b"fine too", b"gro\xdf"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 3: byte 3 of it is not UTF-8"):
        text(tmp_path / "a.parquet").manifest()


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".parquet"])
def test_what_unpacks_to_far_more_than_text_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    monkeypatch.setattr(module, "SMALL", 10_000)
    row = {".txt": "a\n\n", ".jsonl": '{"text": "a"}\n', ".parquet": "a"}[kind]
    file = tmp_path / f"a{kind}{suffix}"
    file.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}[suffix](row.encode() * 200_000))
    with pytest.raises(DataError, match=r"unpacks to more than 200 times its size.*unpack it"):
        text(file).manifest()


@pytest.mark.parametrize("split", ["document", "tail"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a" * 2000),
        ("b.txt", "a line\n" * 300),
        ("c.jsonl", '{"text": "%s"}' % ("a" * 2000)),
        ("d.jsonl", '{"text": "%s"}' % ("\\u00e9" * 150)),
    ],
)
def test_a_document_has_a_length_that_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, split: str
) -> None:
    monkeypatch.setattr(module, "LONGEST", 1000)
    (tmp_path / name).write_text(content)
    if name == "d.jsonl":
        assert text(tmp_path / name, split=split).manifest()  # 150 characters
        return
    with pytest.raises(DataError, match=r"has more than 1000 (characters|bytes); divide it"):
        text(tmp_path / name, split=split).manifest()


def test_tail_reads_no_file_that_lies_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        (tmp_path / f"{n:02}.txt").write_text(f"{n % 10}" * 1000)
    read, opened = module.read_documents, []

    def noted(path: Path, *rest: Any, **more: Any) -> Iterator[str]:
        opened.append(path.stem)
        return read(path, *rest, **more)

    monkeypatch.setattr(module, "read_documents", noted)
    source = text(tmp_path / "*.txt", split="tail", validation=0.1, heldout=0.1)
    found = {split: "".join(documents) for split, documents in all_splits(source).items()}
    assert "".join(found[split] for split in SPLITS) == "".join(f"{n % 10}" * 1000 for n in range(20))
    assert len(opened) == 2 * 20, "once to count, and once to read"
    opened.clear()
    manifest = source.manifest()
    assert len(opened) == 20, "in one reading"
    monkeypatch.setattr(module.Text, "every", Source.every)
    assert source.manifest() == manifest
    opened.clear()
    list(source.documents("heldout"))
    assert opened == ["18", "19"]


def test_long_documents_are_hashed_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In pieces, so that a long one is not in memory twice."""
    file = write(tmp_path / "a.txt", ["thé end " * 50, *STORIES])
    whole, splits = text(file).manifest(), all_splits(text(file))
    monkeypatch.setattr("ablate.data.source.PIECE", 7)
    assert text(file).manifest() == whole and all_splits(text(file)) == splits


def test_what_names_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\*\.txt' matches no file"):
        all_splits(text(tmp_path / "nothing*.txt"))
    with pytest.raises(DataError, match=r"is a folder; say .*/\*\.txt"):
        text(tmp_path).change_stamp()
    assert "is none of .txt, .jsonl, .parquet" in refusal(tmp_path, "a.csv", b"a,b")


@pytest.mark.parametrize(
    "options", [{"files": []}, {"split": "head"}, {"validation": 0}, {"heldout": 0.5}, {"shuffle": 1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        registry.source.parse({"name": "text", "files": ["a.txt"], **options})


# ------------------------------------------------------------------------------------------------- hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub with one dataset; the list says what was asked of it."""
    import datasets
    import huggingface_hub

    asked: list[Any] = []
    rows = {"train": STORIES, "validation": ["v"], "test": ["t", ""]}

    def load_dataset(path: str, config: str | None, *, split: str, revision: str, streaming: bool) -> Any:
        assert streaming
        asked.append((path, config, split, revision))
        if split not in rows:
            raise ValueError(f"Bad split: {split}. Available splits: {list(rows)}")
        return ({"text": row} for row in rows[split])

    def dataset_info(self: Any, path: str, revision: str, timeout: float) -> Any:
        asked.append((path, revision))
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


def hub(**options: Any) -> Source:
    made: Source = registry.source.build({"name": "hub", "path": "some/thing", **options})
    return made


def test_hub_takes_named_splits_at_one_commit(datasets: list[Any]) -> None:
    documents = all_splits(hub(config="small"))
    assert documents == {"train": STORIES, "validation": ["v"], "heldout": ["t"]}
    assert ("some/thing", "small", "train", COMMIT) in datasets


def test_hub_takes_documents_from_the_front(datasets: list[Any]) -> None:
    documents = all_splits(hub(validation=3, heldout=5))
    assert documents == {"validation": STORIES[:3], "heldout": STORIES[3:8], "train": STORIES[8:]}


def test_hub_manifest_downloads_nothing(datasets: list[Any]) -> None:
    manifests = {
        hub().manifest(),
        hub(tokens=5).manifest(),
        hub(config="a").manifest(),
        hub(revision="f" * 40).manifest(),
    }
    assert len(manifests) == 4
    assert hub(revision=COMMIT).manifest() == hub().manifest()
    assert set(datasets) == {("some/thing", "main")}  # no more than which commit it is


def test_hub_joins_lines_to_documents(datasets: list[Any]) -> None:
    documents = list(hub(begins="Story [0-9]*0\n", validation=1, heldout=1).documents("train"))
    assert documents == ["".join(STORIES[n : n + 10]) for n in range(20, 400, 10)]


def test_hub_says_what_is_not_there(datasets: list[Any]) -> None:
    with pytest.raises(DataError, match=r"Available splits: .*'train'"):
        list(hub(heldout="nothing").documents("heldout"))
    with pytest.raises(DataError, match="row 0: no text 'body'; there is text"):
        list(hub(field="body").documents("train"))


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_hub_without_a_network_names_what_works(monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match=r"some/thing.*data=stdlib.*data=text"):
        list(hub(revision=revision).documents("train"))
