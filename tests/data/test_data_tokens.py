"""Token shards of other tools: the same tokens and documents from each format, and damage refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ablate.data.prepare import Prepared, prepare
from ablate.data.shards import open_shard
from ablate.data.source import DataError
from ablate.spec import DataSpec

END = 9
DOCUMENTS = [[n % 8, 1, 2, 3 + n % 5, 4][: 2 + n % 4] for n in range(40)]


def flat(after: bool = True) -> np.ndarray:
    return np.array([t for d in DOCUMENTS for t in ([*d, END] if after else [END, *d])])


def raw(folder: Path) -> Path:
    flat().astype("<u2").tofile(folder / "a.bin")
    return folder / "a.bin"


def olmo(folder: Path) -> Path:
    flat().astype("<u2").tofile(folder / "a.npy")  # without NumPy's header
    return folder / "a.npy"


def npy(folder: Path) -> Path:
    np.save(folder / "a.npy", flat().astype(np.uint32))
    return folder / "a.npy"


def llmc(folder: Path) -> Path:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(flat())
    (folder / "a.bin").write_bytes(header.tobytes() + flat(after=False).astype("<u2").tobytes())
    return folder / "a.bin"


def megatron(folder: Path, sequences_each: int = 1) -> Path:
    flat().astype("<u2").tofile(folder / "a.bin")
    lengths = np.array([len(d) + 1 for d in DOCUMENTS], dtype="<i4")
    pointers = np.concatenate([[0], np.cumsum(2 * lengths[:-1], dtype=np.int64)]).astype("<i8")
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1)
    borders = np.arange(len(lengths) + 1, dtype="<i8")
    (folder / "a.idx").write_bytes(head + lengths.tobytes() + pointers.tobytes() + borders.tobytes())
    return folder / "a.bin"


def litpkds(folder: Path) -> Path:
    """As TinyLlama's builder leaves its last chunk: filled up with the token that separates documents."""
    tokens = np.append(flat(), [END] * 7).astype("<u2")
    header = b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(tokens))
    (folder / "a.bin").write_bytes(header + tokens.tobytes())
    return folder / "a.bin"


def litdata(folder: Path, dtype: str = "<i4", code: int = 16, **config: object) -> Path:
    """Two chunks, as `litdata.optimize` writes documents for the TokensLoader that litgpt reads by."""
    chunks = []
    for name, documents in (("chunk-0-0.bin", DOCUMENTS[:25]), ("chunk-0-1.bin", DOCUMENTS[25:])):
        items = [np.array([*document, END]).astype(dtype).tobytes() for document in documents]
        begins = np.cumsum([4 + 4 * (len(items) + 1), *map(len, items)]).astype("<u4")
        content = np.array([len(items)], "<u4").tobytes() + begins.tobytes() + b"".join(items)
        (folder / name).write_bytes(content)
        chunks.append({"filename": name, "chunk_size": len(items), "chunk_bytes": len(content), "dim": 0})
    form = {"compression": None, "data_format": [f"no_header_tensor:{code}"], **config}
    (folder / "index.json").write_text(json.dumps({"chunks": chunks, "config": form}))
    return folder / "chunk-0-0.bin"


def made(folder: Path, cache: Path, **options) -> Prepared:
    source = {"name": "tokens", "end": END, "validation": 0.1, "heldout": 0.1, **options}
    source.setdefault("files", [str(folder / "*.*")])
    data = {"source": source, "tokenizer": {"name": "symbols", "vocab": 10}}
    return prepare(DataSpec.model_validate(data), cache)


@pytest.mark.parametrize("write", [raw, olmo, npy, megatron, litpkds, litdata])
def test_every_format_gives_the_same_tokens_and_documents(write, tmp_path):
    write(tmp_path)
    prepared = made(tmp_path, tmp_path / "cache")
    train = prepared.splits["train"]
    assert len(train.document_offsets) == 32
    assert train.tokens.tolist() == [t for d in DOCUMENTS[:32] for t in [*d, END]]
    assert prepared.splits["validation"].tokens.tolist() == [t for d in DOCUMENTS[32:36] for t in [*d, END]]
    assert prepared.splits["heldout"].tokens.tolist() == [t for d in DOCUMENTS[36:] for t in [*d, END]]
    assert prepared.splits["validation"].loss_mask is None and prepared.splits["validation"].bytes == 0
    (tmp_path / "b").mkdir()
    raw(tmp_path / "b")
    assert made(tmp_path / "b", tmp_path / "cache").fingerprint == prepared.fingerprint


def test_an_end_token_that_stands_before_begins_a_document(tmp_path):
    llmc(tmp_path)
    train = made(tmp_path, tmp_path / "cache", border="before").splits["train"]
    assert train.tokens.tolist() == [t for d in DOCUMENTS[:32] for t in [END, *d]]
    assert all(train.tokens[train.document_offsets] == END)


def test_splits_may_have_files_of_their_own(tmp_path):
    for name, documents in (("train", DOCUMENTS[:30]), ("val", DOCUMENTS[30:])):
        np.array([t for d in documents for t in [*d, END]], dtype="<u2").tofile(tmp_path / f"{name}.bin")
    files = {"files": [str(tmp_path / "train.bin")], "validation_files": [str(tmp_path / "val.bin")]}
    prepared = made(tmp_path, tmp_path / "cache", heldout=0.0, **files)
    counts = {name: len(split.document_offsets) for name, split in prepared.splits.items()}
    assert counts == {"train": 30, "validation": 10, "heldout": 0}


def test_the_text_of_a_known_tokenizer_is_counted_in_bytes(tmp_path):
    np.array([*b"abc", 256, *"é".encode(), 256, *b"xy", 256], dtype="<u2").tofile(tmp_path / "a.bin")
    source = {"name": "tokens", "files": [str(tmp_path / "a.bin")], "end": 256}
    source |= {"validation": 0.34, "heldout": 0.34}
    data = DataSpec.model_validate({"source": source, "tokenizer": {"name": "bytes"}})
    prepared = prepare(data, tmp_path / "c")
    assert prepared.splits["validation"].bytes == 2 and prepared.splits["heldout"].bytes == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"files": ["nowhere*.bin"]}, "matches no file"),
        ({"end": None}, "too few to deal out to the splits"),
        ({"format": "llmc"}, "no whole file of the format llmc"),
        ({"format": "npy"}, "no whole file of the format npy"),
        ({"dtype": "int64"}, "no whole number of int64"),
    ],
)
def test_what_does_not_fit_is_refused(options, said, tmp_path):
    raw(tmp_path).write_bytes(raw(tmp_path).read_bytes()[:-2] + b"\x01\x00" * 2)
    with pytest.raises(DataError, match=said):
        made(tmp_path, tmp_path / "cache", **options)


def test_tokens_beyond_the_vocabulary_and_a_tokenizer_to_be_learned_are_refused(tmp_path):
    np.array([1, 2, END] * 40 + [11, END], dtype="<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"not in 0\.\.9"):
        made(tmp_path, tmp_path / "cache")


def test_a_packed_file_beside_tokens_is_not_read_as_tokens(tmp_path):
    olmo(tmp_path)
    (tmp_path / "a.csv.gz").write_bytes(b"\x01\x00" * 40)
    with pytest.raises(DataError, match=r"a\.csv\.gz is packed; unpack it, or leave it out of files"):
        made(tmp_path, tmp_path / "cache")
    assert made(tmp_path, tmp_path / "cache", files=[str(tmp_path / "*.npy")])


def test_a_damaged_index_is_refused(tmp_path):
    path = megatron(tmp_path)
    index = path.with_suffix(".idx")
    whole = index.read_bytes()
    for broken in (whole[:60], whole[:-8] + struct.pack("<q", 3), whole[:34] + b"\xff" * 4 + whole[38:]):
        index.write_bytes(broken)
        with pytest.raises(DataError, match="no whole file of the format megatron"):
            open_shard(path, "auto", np.dtype("uint16"))


def test_a_chunk_that_begins_documents_with_its_token_loses_what_it_was_filled_with(tmp_path):
    tokens = np.append(flat(after=False), [END] * 7).astype("<u2")
    (tmp_path / "a.bin").write_bytes(b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(tokens)) + tokens.tobytes())
    shard = open_shard(tmp_path / "a.bin", "auto", np.dtype("uint16"))
    found = [document.tolist() for document in shard.documents(END, "before")]
    assert found == [[END, *document] for document in DOCUMENTS]
    full = np.array([END] * 5, "<u2")
    (tmp_path / "a.bin").write_bytes(b"LITPKDS" + struct.pack("<QBQ", 1, 8, 5) + full.tobytes())
    shard = open_shard(tmp_path / "a.bin", "auto", np.dtype("uint16"))
    assert not list(shard.documents(END, "before"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"compression": "zstd"}, "compressed or encrypted"),
        ({"data_format": ["no_header_tensor:0"]}, "number type 0 of its items is not known"),
        ({"data_format": ["int"]}, "not rows of tokens"),
        ({"data_format": ["no_header_tensor:18"]}, "do not cover it"),
    ],
)
def test_chunks_of_another_kind_are_refused(config, said, tmp_path):
    with pytest.raises(DataError, match=said):
        open_shard(litdata(tmp_path, **config), "auto", np.dtype("uint16"))


def test_chunks_that_are_cut_short_or_that_the_index_does_not_know_are_refused(tmp_path):
    for write in (litpkds, litdata):
        folder = tmp_path / write.__name__
        folder.mkdir()
        path = write(folder)
        whole = path.read_bytes()
        for broken in (whole[:-2], whole[:10], whole + b"\0\0"):
            path.write_bytes(broken)
            with pytest.raises(DataError, match=f"no whole file of the format {write.__name__}"):
                open_shard(path, "auto", np.dtype("uint16"))
    path.write_bytes(whole)
    with pytest.raises(DataError, match="does not name it"):
        open_shard(path.rename(path.with_name("chunk-1-0.bin")), "auto", np.dtype("uint16"))
