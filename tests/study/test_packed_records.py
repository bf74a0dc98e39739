"""Packed records: what another machine takes up is what this one has, and damage is refused."""

import io
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from ablate.engine.lease import take
from ablate.engine.store import Store
from ablate.record import RunRecord
from ablate.study.results import packed
from ablate.study.results.packed import pack_records, unpack_records

IDS = ["0" * 11 + digit for digit in "123"]


def made(root: Path, ids: list[str] = IDS, status: str = "finished", **said: object) -> Store:
    """A store with a record and a curve of each run."""
    store = Store(root)
    for n, id in enumerate(ids):
        record = RunRecord(
            id=id,
            status=status,
            source_hash="c0de",
            spec={},
            fingerprint={},
            metrics={"heldout/loss": 1.5 + n},
            measures={"heldout": "beef"},
            provenance={"command": ["/somewhere/worker.py", "1"], "ended": "2026-01-01"},
        )
        record.model_copy(update=said).save(store.folder(id))
        curve = {"step": [1, 2], "tokens": [10, 20], "loss": [5.5, 4.0 + n], "validation_loss": [None, 4.0]}
        pd.DataFrame({**curve, "grad_norm": [1.0, 2.0]}).to_parquet(store.folder(id) / "curve.parquet")
    return store


def test_another_machine_takes_up_what_was_packed(tmp_path):
    here, there = made(tmp_path / "here"), Store(tmp_path / "there")
    files = pack_records(tmp_path / "records", IDS, here)
    assert len(files) == 1
    assert unpack_records(tmp_path / "records", there) == len(IDS)
    for id in IDS:
        assert there.finished(id, "c0de")
        assert there.load(id).metrics == here.load(id).metrics
        curves = [pd.read_parquet(s.folder(id) / "curve.parquet")[["step", "loss"]] for s in (here, there)]
        assert curves[0].astype(float).equals(curves[1].astype(float))
    assert there.load(IDS[0]).provenance["command"] == ["worker.py", "1"]
    assert unpack_records(tmp_path / "records", there) == 0
    assert (
        pack_records(tmp_path / "records", IDS, here) == [] == pack_records(tmp_path / "records", IDS, there)
    )


def test_later_runs_go_to_a_file_of_their_own(tmp_path):
    store = made(tmp_path / "runs")
    (first,) = pack_records(tmp_path / "records", IDS[:1], store)
    before = first.read_bytes()
    (second,) = pack_records(tmp_path / "records", IDS, store)
    assert first != second and first.read_bytes() == before
    with tarfile.open(second) as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == set(IDS[1:])


def test_the_same_runs_make_the_same_file(tmp_path):
    store = made(tmp_path / "runs")
    assert (
        pack_records(tmp_path / "a", IDS, store)[0].name
        == pack_records(tmp_path / "b", reversed(IDS), store)[0].name
    )


def test_files_stay_below_the_limit(tmp_path):
    store = made(tmp_path / "runs")
    most = len(pack_records(tmp_path / "one", IDS[:1], store)[0].read_bytes()) + 40
    files = pack_records(tmp_path / "records", IDS, store, most)
    assert len(files) > 1 and all(file.stat().st_size <= most for file in files)
    assert unpack_records(tmp_path / "records", Store(tmp_path / "there")) == len(IDS)
    with pytest.raises(ValueError, match=r"its record has .* bytes when packed, more than 99"):
        pack_records(tmp_path / "small", IDS, store, 99)


def test_what_has_no_outcome_is_not_packed(tmp_path):
    store = made(tmp_path / "runs", status="crashed")
    assert pack_records(tmp_path / "records", [*IDS, "f" * 12], store) == []


def test_an_outcome_that_is_there_stays_and_a_crash_does_not_count(tmp_path):
    pack_records(tmp_path / "records", IDS, made(tmp_path / "here"))
    there = made(tmp_path / "there", IDS[:1], source_hash="0ther")
    made(tmp_path / "there", IDS[1:2], status="crashed")
    assert unpack_records(tmp_path / "records", there) == 2
    assert there.load(IDS[0]).source_hash == "0ther"
    assert there.load(IDS[1]).status == "finished"


def test_a_run_that_another_process_does_is_left_to_it(tmp_path):
    pack_records(tmp_path / "records", IDS, made(tmp_path / "here"))
    there = Store(tmp_path / "there")
    lease = take(there.folder(IDS[0]))
    assert unpack_records(tmp_path / "records", there) == 2
    assert there.find(IDS[0]) is None
    lease.release()


def test_of_two_records_of_a_run_the_one_that_was_measured_more_counts(tmp_path):
    pack_records(tmp_path / "records", IDS[:1], made(tmp_path / "a"))
    more = made(tmp_path / "b", measures={"heldout": "beef", "length": "cafe"})
    assert len(pack_records(tmp_path / "records", IDS[:1], more)) == 1
    there = Store(tmp_path / "there")
    unpack_records(tmp_path / "records", there)
    assert there.load(IDS[0]).measures.keys() == {"heldout", "length"}


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-1], lambda content: b""])
def test_a_damaged_file_is_refused_in_one_line_and_nothing_is_taken_up(damage, tmp_path):
    store = made(tmp_path / "here")
    pack_records(tmp_path / "records", IDS[:2], store)
    (second,) = pack_records(tmp_path / "records", IDS, store)
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged .its content is not that of its name") as refused:
        unpack_records(tmp_path / "records", Store(tmp_path / "there"))
    assert len(str(refused.value).splitlines()) == 1 and str(second) in str(refused.value)
    assert not (tmp_path / "there").exists()


def put(folder: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> None:
    """A file with a right name, whatever is in it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    folder.mkdir()
    (folder / f"{packed._hash(made.getvalue())}{packed.ENDING}").write_bytes(made.getvalue())


@pytest.mark.parametrize(
    "name", ["../x/record.json", "/tmp/record.json", f"{IDS[0]}/weights/model.safetensors"]
)
def test_a_file_with_anything_else_in_it_is_refused(name, tmp_path):
    put(tmp_path / "records", {name: b"{}"})
    with pytest.raises(ValueError, match="is neither a record nor a curve"):
        unpack_records(tmp_path / "records", Store(tmp_path / "there"))


def test_a_link_is_refused(tmp_path):
    put(tmp_path / "records", {f"{IDS[0]}/record.json": b""}, tarfile.SYMTYPE)
    with pytest.raises(ValueError, match="is neither a record nor a curve"):
        unpack_records(tmp_path / "records", Store(tmp_path / "there"))


def test_an_edited_record_and_one_of_another_run_are_refused(tmp_path):
    content = (made(tmp_path / "here").folder(IDS[0]) / "record.json").read_bytes()
    put(tmp_path / "edited", {f"{IDS[0]}/record.json": content.replace(b"1.5", b"1.4")})
    put(tmp_path / "other", {f"{IDS[1]}/record.json": content, f"{IDS[1]}/curve.parquet": b""})
    put(tmp_path / "half", {f"{IDS[0]}/record.json": content})
    for folder, said in (("edited", "damaged or edited"), ("other", "not whole"), ("half", "not whole")):
        with pytest.raises(ValueError, match=said):
            unpack_records(tmp_path / folder, Store(tmp_path / "there"))


def test_a_study_without_packed_records_takes_up_nothing(tmp_path):
    assert unpack_records(tmp_path / "records", Store(tmp_path / "there")) == 0
