"""Files of tokens that other tools write, memory-mapped.

| format | file | its header | where documents lie |
|---|---|---|---|
| raw | nanoGPT .bin, OLMo-core .npy | none: bare numbers | between end tokens |
| npy | .npy of NumPy | NumPy's | between end tokens |
| llmc | .bin of llm.c and modded-nanoGPT | 256 int32: 20240520, version, tokens | end token before each |
| megatron | .bin with .idx beside it | the index | the index |
| litdata | chunk-*.bin of litgpt, with index.json | uint32: items, where each begins | its items |
| litpkds | .bin of TinyLlama, earlier litgpt | LITPKDS, version, number type, tokens | between end tokens |
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ablate.data.source import DataError

LLMC_MAGIC, LLMC_HEADER = 20240520, 256
LLMC_DTYPES = {1: np.uint16, 7: np.uint32}  # by version; 7 is that of Llama 3's larger vocabulary
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
NUMPY_MAGIC = b"\x93NUMPY"
LITPKDS_MAGIC, LITPKDS_HEADER = b"LITPKDS", 24
LITDATA_INDEX = "index.json"
LITDATA_DTYPES = {
    11: np.uint8,
    12: np.int8,
    13: np.int16,
    14: np.int16,
    15: np.int32,
    16: np.int32,
    17: np.int64,
    18: np.int64,
}
PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")  # Dolma's list of documents, .csv.gz, lies beside its .npy
_BLOCK = 1 << 22  # tokens that are searched for end tokens at once


@dataclass(frozen=True)
class Shard:
    """One file: `tokens` (N,), and `offsets` (documents + 1,) where its format says them. A `padded` one may
    be filled up with end tokens behind its last document."""

    path: Path
    tokens: np.ndarray
    offsets: np.ndarray | None = None
    padded: bool = False

    def documents(self, end: int | None, border: Literal["after", "before"]) -> Iterator[np.ndarray]:
        """The documents in order, none of them empty. The token `end` belongs to the document that it ends,
        or with `border="before"` to the one that it begins."""
        for first, last in self._places(end, border):
            if last > first:
                yield self.tokens[first:last]

    def _places(self, end: int | None, border: str) -> Iterator[tuple[int, int]]:
        if self.offsets is not None:
            yield from zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
            return
        at, size = 0, len(self.tokens)
        if end is not None:
            if self.padded:
                others = np.flatnonzero(self.tokens != end)
                size = int(others[-1]) + 1 if len(others) else 0
                size += border == "after" and size < len(self.tokens)
            for first in range(0, size, _BLOCK):
                for found in np.flatnonzero(self.tokens[first : min(first + _BLOCK, size)] == end):
                    last = first + int(found) + (border == "after")
                    yield at, last
                    at = last
        yield at, size


def open_shard(path: Path, format: str, dtype: np.dtype) -> Shard:
    """Map a file. `auto` knows all formats but raw by their first bytes; `dtype` is that of a raw one. Raises
    DataError for a file that is none, is packed, or is cut short."""
    if path.suffix in PACKED_SUFFIXES:
        raise DataError(f"tokens: {path} is packed; unpack it, or leave it out of files (files=['*.npy'])")
    with path.open("rb") as file:
        head = file.read(12)
    known = _format_of(path, head) if format == "auto" else format
    try:
        shard = READERS[known](path, dtype)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error, OSError) as error:
        raise DataError(f"tokens: {path} is no whole file of the format {known}: {error}") from error
    if not len(shard.tokens):
        raise DataError(f"tokens: {path} has no tokens in it; leave it out")
    if np.issubdtype(shard.tokens.dtype, np.signedinteger) and int(shard.tokens.min()) < 0:
        raise DataError(f"tokens: {path} has negative numbers; is {shard.tokens.dtype} its type?")
    return shard


def _format_of(path: Path, head: bytes) -> str:
    if head.startswith(NUMPY_MAGIC):
        return "npy"
    if path.with_suffix(".idx").is_file():
        return "megatron"
    if head.startswith(LITPKDS_MAGIC):
        return "litpkds"
    if path.suffix == ".bin" and path.with_name(LITDATA_INDEX).is_file():
        return "litdata"
    if len(head) == 12 and struct.unpack("<3i", head)[0] == LLMC_MAGIC:
        return "llmc"
    return "raw"


def _index(path: Path) -> bytes:
    """The index that stands beside tokens. Raises ValueError for what is no regular file."""
    if not path.is_file():
        raise ValueError(f"{path.name} beside it is missing")
    return path.read_bytes()


def _raw(path: Path, dtype: np.dtype) -> Shard:
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise ValueError(f"{size} bytes are no whole number of {dtype.name}; say data.source.dtype")
    if not size:
        return Shard(path, np.empty(0, dtype))
    return Shard(path, np.memmap(path, dtype=dtype.newbyteorder("<"), mode="r"))


def _npy(path: Path, _: np.dtype) -> Shard:
    tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"it holds {tokens.dtype} of shape {tokens.shape}, not one row of whole numbers")
    return Shard(path, tokens)


def _llmc(path: Path, _: np.dtype) -> Shard:
    header = np.fromfile(path, dtype="<i4", count=LLMC_HEADER)
    if len(header) < LLMC_HEADER or header[0] != LLMC_MAGIC:
        raise ValueError("its header is not that of llm.c")
    version, count = int(header[1]), int(header[2])
    if version not in LLMC_DTYPES:
        raise ValueError(f"version {version} of the format is not known")
    dtype = np.dtype(LLMC_DTYPES[version])
    needed = 4 * LLMC_HEADER + count * dtype.itemsize
    if path.stat().st_size != needed:
        raise ValueError(f"it has {path.stat().st_size} bytes, and its header says {needed}")
    return Shard(path, np.memmap(path, dtype=dtype, mode="r", offset=4 * LLMC_HEADER, shape=(count,)))


def _megatron(path: Path, _: np.dtype) -> Shard:
    index = _index(path.with_suffix(".idx"))
    if not index.startswith(MEGATRON_MAGIC):
        raise ValueError("its index has another beginning")
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, len(MEGATRON_MAGIC))
    if version != 1 or code not in MEGATRON_DTYPES:
        raise ValueError(f"version {version} or number type {code} of its index is not known")
    dtype = np.dtype(MEGATRON_DTYPES[code])
    at = len(MEGATRON_MAGIC) + struct.calcsize("<QBQQ")
    lengths = np.frombuffer(index, "<i4", sequences, at)
    pointers = np.frombuffer(index, "<i8", sequences, at + 4 * sequences)
    borders = np.frombuffer(index, "<i8", documents, at + 12 * sequences)
    tokens = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if starts[-1] != len(tokens) or not np.array_equal(pointers, starts[:-1] * dtype.itemsize):
        raise ValueError("its index does not describe the tokens beside it, one sequence after another")
    if not len(borders) or borders[0] != 0 or borders[-1] != sequences or (np.diff(borders) < 0).any():
        raise ValueError("the documents of its index do not cover its sequences")
    return Shard(path, tokens, starts[borders])


def _litpkds(path: Path, _: np.dtype) -> Shard:
    with path.open("rb") as file:
        header = file.read(LITPKDS_HEADER)
    magic, version, code, count = struct.unpack("<7sQBQ", header)
    if magic != LITPKDS_MAGIC or version != 1 or code not in MEGATRON_DTYPES:
        raise ValueError(f"version {version} or number type {code} of its header is not known")
    dtype = np.dtype(MEGATRON_DTYPES[code])
    needed = LITPKDS_HEADER + count * dtype.itemsize
    if path.stat().st_size != needed:
        raise ValueError(f"it has {path.stat().st_size} bytes, and its header says {needed}")
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=LITPKDS_HEADER, shape=(count,))
    return Shard(path, tokens, padded=True)


def _litdata(path: Path, _: np.dtype) -> Shard:
    index = json.loads(_index(path.with_name(LITDATA_INDEX)))
    config = index["config"]
    known = [chunk for chunk in index["chunks"] if chunk["filename"] == path.name]
    if not known:
        raise ValueError(f"{LITDATA_INDEX} beside it does not name it")
    if config.get("compression") or config.get("encryption"):
        raise ValueError("it is compressed or encrypted; write it without (litdata.optimize)")
    kind, colon, code = str(config["data_format"][0]).partition(":")
    if len(config["data_format"]) != 1 or kind != "no_header_tensor" or not (colon and code.isdigit()):
        raise ValueError(f"its items are {config['data_format']}, not rows of tokens (no_header_tensor)")
    dtype = np.dtype(LITDATA_DTYPES[int(code)]) if int(code) in LITDATA_DTYPES else None
    if dtype is None:
        raise ValueError(f"the number type {code} of its items is not known")
    (items,) = np.fromfile(path, "<u4", 1).tolist()
    header = 4 * (items + 2)
    if items != known[0]["chunk_size"] or header > path.stat().st_size:
        raise ValueError(f"its header says {items} items, and the index {known[0]['chunk_size']}")
    begins = np.fromfile(path, "<u4", items + 1, offset=4).astype(np.int64)
    if begins[0] != header:
        raise ValueError("its first item does not begin behind its header")
    offsets, rest = np.divmod(begins - header, dtype.itemsize)
    if rest.any() or (np.diff(offsets) < 0).any() or path.stat().st_size != begins[-1]:
        raise ValueError("its items do not cover it, one after another")
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=header) if offsets[-1] else np.empty(0, dtype)
    return Shard(path, tokens, offsets)


READERS = {
    "raw": _raw,
    "npy": _npy,
    "llmc": _llmc,
    "megatron": _megatron,
    "litpkds": _litpkds,
    "litdata": _litdata,
}
