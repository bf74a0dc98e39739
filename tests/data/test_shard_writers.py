"""Token shards as the writers of other projects leave them today. Each needs that project's package."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ablate.data.shards import open_shard

pytestmark = pytest.mark.slow
END = 9
DOCUMENTS = [[*[n % 8, 1, 2, 3 + n % 5, 4][: 2 + n % 4], END] for n in range(40)]


def found(files: list[Path], form: str, dtype: str = "uint16", end: int | None = END) -> list[list[int]]:
    """The documents that we read, once it is asserted that each file is known to have this format."""
    shards = [open_shard(path, "auto", np.dtype(dtype)) for path in files]
    for path, shard in zip(files, shards, strict=True):
        assert np.array_equal(open_shard(path, form, np.dtype(dtype)).tokens, shard.tokens)
    return [document.tolist() for shard in shards for document in shard.documents(end, "after")]


def rows(document: list[int]) -> torch.Tensor:
    return torch.tensor(document, dtype=torch.int)  # as litgpt's tokenizer returns them


def wide_rows(document: list[int]) -> torch.Tensor:
    return torch.tensor(document, dtype=torch.int64)


@pytest.mark.parametrize("row", [rows, wide_rows])
def test_chunks_of_litdata(row, tmp_path):
    """The call of litgpt's data modules (litgpt 0.5.13, litgpt/data/tinystories.py), with smaller chunks."""
    litdata = pytest.importorskip("litdata", reason="needs litdata")
    loader = litdata.TokensLoader()
    litdata.optimize(
        fn=row, inputs=DOCUMENTS, output_dir=str(tmp_path), num_workers=1, chunk_bytes=400, item_loader=loader
    )
    files = sorted(tmp_path.glob("*.bin"), key=lambda path: int(path.stem.split("-")[-1]))
    assert len(files) > 1
    assert found(files, "litdata", end=None) == DOCUMENTS


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_an_index_of_megatron(dtype, tmp_path):
    """Documents of one sequence, and documents of several, which are joined."""
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="needs megatron-core")
    for name, parts in (("one", 1), ("several", 2)):
        builder = indexed.IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=dtype)
        for document in DOCUMENTS:
            pieces = [document] if parts == 1 else [document[:1], document[1:]]
            for piece in pieces:
                builder.add_item(torch.tensor(piece))
            builder.end_document()
        builder.finalize(str(tmp_path / f"{name}.idx"))
        assert found([tmp_path / f"{name}.bin"], "megatron", end=None) == DOCUMENTS


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_memmap_of_dolma_which_olmo_core_trains_on(dtype, tmp_path):
    written = pytest.importorskip("dolma.tokenizer.memmap_writer", reason="needs dolma")
    from dolma.tokenizer.data_types import TokenizerOutput

    with written.MemmapWriter(str(tmp_path / "a.npy"), dtype=np.dtype(dtype), max_tokens=1000) as writer:
        for n, document in enumerate(DOCUMENTS):
            assert writer.write(TokenizerOutput.from_tokens(f"{n}", "text", n, document))
    assert found([tmp_path / "a.npy"], "raw", np.dtype(dtype).name) == DOCUMENTS
