"""Bits flip and files are cut short on a disk. What was damaged is refused, made anew, or does not matter; it
never gives another number. Every file that numbers come from is damaged at random, a bit or a cut at a time.
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training import run_spec, write_text

from ablate.data.prepare import prepare
from ablate.engine.lease import LeaseLost, holder, take, taken
from ablate.engine.store import Store
from ablate.record import RunRecord, read_curve
from ablate.spec import RunSpec
from ablate.study import results
from ablate.study.design.freeze import Frozen, Version, frozen
from ablate.study.design.study import StudyError
from ablate.train.fit import fit
from ablate.train.settings import Settings
from ablate.train.state.checkpoint import Checkpoints
from ablate.train.state.weights import WEIGHTS_FILE, WeightsMismatch, verify

ROOT = Path(__file__).parents[2]
REFUSED = "refused"


@dataclass
class Target:
    """Files that numbers come from, and how they are read: to a value that can be compared, or REFUSED.

    `sound` are the values that are right whatever was damaged: those of files that are made anew.
    """

    root: Path
    read: Callable[[], Any]
    flips: int
    remakes: bool = False  # damage is answered by making the file anew, never by a refusal


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSpec, RunRecord]:
    """A run that was trained and kept everything, its cache beside it."""
    place = tmp_path_factory.mktemp("whole")
    spec = run_spec(write_text(place))
    prepared = prepare(spec.data, place / "cache")
    settings = Settings(accelerator="cpu", progress=False, keep="all", checkpoint_steps=5)
    return place, spec, fit(spec, prepared, settings, place / "runs")


@pytest.fixture
def targets(run: tuple[Path, RunSpec, RunRecord], tmp_path: Path) -> dict[str, Target]:
    whole, spec, record = run
    place = Path(shutil.copytree(whole, tmp_path / "place"))
    folder = place / "runs" / record.id
    aside = {}
    for name in ("record", "weights", "curve", "checkpoint"):
        aside[name] = place / name
        aside[name].mkdir()
    store = Store(place / "runs")
    numbers = tmp_path / "study"
    shutil.copytree(ROOT / "experiments" / "norm" / "results", numbers / "from" / "results")
    kept = results.read_results(numbers / "from")
    numbers.joinpath("study").mkdir()
    results.write_results(kept, numbers / "study")
    plan = tmp_path / "plan"
    plan.mkdir()
    version = Version(
        date="now", file="f" * 64, study={"seeds": 6, "alpha": 0.05}, arms={}, test_runs=0, hash=""
    )
    version = version.model_copy(update={"hash": version.content})
    (plan / "plan.json").write_text(Frozen(versions=(version, version)).model_dump_json(indent=1))

    def of_record() -> Any:
        found = store.outcome(record.id, record.source_hash)
        return REFUSED if found is None else found

    def of_weights() -> Any:
        try:
            verify(folder / WEIGHTS_FILE)
        except WeightsMismatch:
            return REFUSED
        return (folder / WEIGHTS_FILE).read_bytes()

    def of_curve() -> Any:
        try:
            return read_curve(folder, record.curve_hash)
        except OSError:
            return REFUSED

    def of_cache() -> Any:
        # the text itself is not damaged: a changed text is another text
        found = prepare(RunSpec.model_validate(spec).data, place / "cache")
        splits = {
            n: (s.tokens.tobytes(), s.document_offsets.tobytes(), s.bytes) for n, s in found.splits.items()
        }
        return found.fingerprint, splits

    def of_checkpoint() -> Any:
        newest = Checkpoints(folder, record.source_hash).newest()
        return REFUSED if newest is None else (newest.name, (newest / "state").read_bytes())

    def of_results() -> Any:
        try:
            found = results.read_results(numbers / "study")
        except ValueError:
            return REFUSED
        return found.manifest, *(getattr(found, n).to_json() for n in ("runs", "curves", "documents"))

    def of_plan() -> Any:
        try:
            return frozen(plan)
        except StudyError:
            return REFUSED

    for each in list(folder.iterdir()):
        kind = {"record.json": "record", "weights": "weights", "curve.parquet": "curve"}.get(each.name)
        if kind:
            aside[kind] = each
    for old in Checkpoints(folder, record.source_hash).paths()[1:]:
        shutil.rmtree(old)
    return {
        "record": Target(folder / "record.json", of_record, 500),
        "weights": Target(folder / "weights", of_weights, 300),
        "curve": Target(folder / "curve.parquet", of_curve, 200),
        "cache": Target(place / "cache", of_cache, 400, remakes=True),
        "checkpoint": Target(folder / "checkpoint", of_checkpoint, 300),
        "plan": Target(plan, of_plan, 200),
        "results": Target(numbers / "study" / "results", of_results, 300),
    }


def damaged(target: Target, draw: random.Random, cut: bool) -> str:
    """Damage one file, read, and put it back. Returns what is wrong; empty if nothing is."""
    sound = target.read()
    assert sound != REFUSED
    there = [target.root] if target.root.is_file() else files(target.root)
    there = [path for path in there if path.suffix != ".lock"]
    file = draw.choice(there)
    content, times = file.read_bytes(), os.stat(file)
    if cut:
        place = draw.randrange(len(content))
        changed = content[:place]
    else:
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    file.write_bytes(changed)
    try:
        found = target.read()
    finally:
        if not target.remakes:
            file.write_bytes(content)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    if found == sound or (found == REFUSED and not target.remakes):
        return ""
    return f"{file.name}, {'cut at' if cut else 'bit flipped in'} byte {place}: {str(found)[:300]}"


def go(targets: dict[str, Target], share: float, cuts: int) -> None:
    draw, wrong, flips, cut = random.Random(0), [], 0, 0
    for name, target in targets.items():
        for n in range(round(target.flips * share) + cuts):
            is_cut = n < cuts
            flips, cut = flips + (not is_cut), cut + is_cut
            reason = damaged(target, draw, is_cut)
            wrong += [f"{name}: {reason}"] if reason else []
    print(f"{flips} flips, {cut} cuts, {len(wrong)} taken in silence")
    assert not wrong, "\n".join(wrong)


def test_no_damage_changes_a_number(targets: dict[str, Target]) -> None:
    go(targets, 0.05, 2)


@pytest.mark.slow
def test_no_damage_of_thousands_changes_a_number(targets: dict[str, Target]) -> None:
    go(targets, 1, 30)


def contest(folder: Path, draw: random.Random, cut: bool) -> str:
    """Damage the claim of a live holder, let another try to take the run, let both commit. Returns what is
    wrong: two outcomes, none, or an exception."""
    store = Store(folder)
    first = take(store.folder("run"))
    assert first is not None
    content = first.file.read_bytes()
    place = draw.randrange(len(content))
    flipped = bytes([content[place] ^ 1 << draw.randrange(8)])
    first.file.write_bytes(content[:place] if cut else content[:place] + flipped + content[place + 1 :])
    _ = taken(store.folder("run")), holder(store.folder("run")).isprintable()
    second = take(store.folder("run"))
    stored = []
    for number, lease in enumerate((first, second), 1):
        if lease is None:
            continue
        record = RunRecord(
            id="run", status="finished", source_hash="c", spec={}, fingerprint={}, heldout_reads=number
        )
        try:
            record.save(lease.outbox)
            stored.append(store.commit(lease).heldout_reads)
        except LeaseLost:
            pass
    kept = store.find("run")
    for lease in (first, second):
        if lease is not None:
            lease.release()
    shutil.rmtree(folder)
    if second is not None and stored != [2]:
        return f"two holders, and {stored} were stored"
    if second is None and stored not in ([1], []):
        return f"{stored} were stored"
    return "" if kept is None or [kept.heldout_reads] == stored else "another record stands there"


def contests(folder: Path, flips: int, cuts: int) -> None:
    draw = random.Random(1)
    wrong = [contest(folder / "runs", draw, n < cuts) for n in range(flips + cuts)]
    assert not [reason for reason in wrong if reason]


def test_a_damaged_claim_lets_nobody_store_over_another(tmp_path: Path) -> None:
    contests(tmp_path, 30, 5)


@pytest.mark.slow
def test_no_damaged_claim_of_hundreds_lets_anybody_store_over_another(tmp_path: Path) -> None:
    contests(tmp_path, 300, 30)
