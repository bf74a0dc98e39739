"""Real trainings by two engines on one store, while workers and engines are killed, suspended, declared dead
from afar and resumed: nothing is lost, done twice or overwritten, every number that of an undisturbed run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from training import prepared_for, run_spec, write_text

from ablate.engine.lease import LIMIT, _living, newest
from ablate.engine.store import Store
from ablate.engine.worker import Job
from ablate.record import RunRecord
from ablate.train.fit import fit
from ablate.train.request import RunRequest
from ablate.train.settings import Settings
from ablate.train.state.source_hash import source_hash
from ablate.train.state.weights import WEIGHTS_FILE, file_hash

SETTINGS = Settings(accelerator="cpu", threads=1, progress=False, checkpoint_steps=40, keep="weights")
STEPS = 800
HASTY = 0.3  # of claims: struck before they have come anywhere
ENGINE = """
import json, sys
from pathlib import Path
from ablate.engine.launch import launch
from ablate.engine.slots import cpu_slots
from ablate.engine.store import Store
from ablate.engine.worker import Job
said = json.loads(sys.argv[1])
launch([Job(**job) for job in said["jobs"]], cpu_slots(1), "ablate.train.fit:train_work", lambda event: None,
       store=Store(Path(said["store"])), check=0.2, retries=10_000)
"""


class Outcome(NamedTuple):
    """What a run came to."""

    metrics: dict[str, Any]
    weights: str
    curve: list[Any]


def outcome(folder: Path) -> Outcome:
    """From the files, whose hashes are those of the record."""
    import pandas as pd

    record = RunRecord.load(folder)
    assert record.status == "finished" and file_hash(folder / WEIGHTS_FILE) == record.weights_hash
    curve = pd.read_parquet(folder / "curve.parquet").drop(columns="seconds")
    return Outcome(record.metrics, record.weights_hash, curve.fillna(-1).to_numpy().tolist())


def disturb(place: Path, runs: int, kills: int, seed: int = 0) -> dict[str, int]:
    """Train on two engines under kills; returns what was done to them. Raises AssertionError."""
    draw = random.Random(seed)
    text = write_text(place)
    specs = [run_spec(text, steps=STEPS, seed=n) for n in range(runs)]
    prepared = prepared_for(specs[0], place)
    calm = [fit(spec, prepared, SETTINGS, place / "calm").id for spec in specs]
    expected = {id: outcome(place / "calm" / id) for id in calm}
    store = Store(place / "runs")
    jobs = []
    for spec in specs:
        request = RunRequest(spec=spec, settings=SETTINGS, runs=store.root, cache=place / "cache")
        id = spec.id(prepared.fingerprint)
        plain = spec.model_dump(mode="json")
        jobs.append(Job(id, request.payload(), 1, source_hash(spec), plain, prepared.fingerprint))
    said = json.dumps({"jobs": [vars(job) for job in jobs], "store": str(store.root)})

    def begin() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", ENGINE, said], stdout=subprocess.DEVNULL)

    met: dict[tuple[Path, int], list[str] | None] = {}  # checkpoints when a claim was first met; None: hasty

    def due(folder: Path, pid: int) -> bool:
        """Whether a claim may be struck: the hasty at once, the others when they have come further."""
        there = checkpoints(folder)
        seen = met.setdefault((folder, pid), None if draw.random() < HASTY else there)
        return seen is None or there != seen

    engines = [begin(), begin()]
    done = {"killed": 0, "engines killed": 0, "suspended": 0, "declared dead": 0}
    asleep: list[tuple[float, int]] = []
    stored: dict[str, tuple[int, int]] = {}
    try:
        while True:
            time.sleep(draw.uniform(0.05, 0.6))
            for job in jobs:  # a record that stands is never touched again
                with suppress(FileNotFoundError):
                    state = os.stat(store.folder(job.id) / "record.json")
                    if RunRecord.load(store.folder(job.id)).status == "finished":
                        now = (state.st_ino, state.st_mtime_ns)
                        assert stored.setdefault(job.id, now) == now, f"{job.id} was stored twice"
            for until, pid in [each for each in asleep if each[0] < time.monotonic()]:
                asleep.remove((until, pid))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if len(stored) == len(jobs) and not asleep:
                break
            for n, engine in enumerate(engines):
                if engine.poll() is not None and len(stored) < len(jobs):
                    engines[n] = begin()
            holders = {id: pid for id in calm if (pid := holder(store.folder(id))) is not None}
            holders = {id: pid for id, pid in holders.items() if due(store.folder(id), pid)}
            if not holders or done["killed"] + done["engines killed"] >= kills:
                continue
            id, pid = draw.choice(sorted(holders.items()))
            way = draw.random()
            with suppress(ProcessLookupError, FileNotFoundError):
                if way < 0.7:
                    os.kill(pid, signal.SIGKILL)
                    done["killed"] += 1
                elif way < 0.8:
                    engine = draw.choice(engines)
                    engine.kill()  # its workers stop by themselves
                    engine.wait()
                    done["engines killed"] += 1
                elif pid not in {each for _, each in asleep}:
                    os.kill(pid, signal.SIGSTOP)
                    asleep.append((time.monotonic() + draw.uniform(0.5, 6), pid))
                    done["suspended"] += 1
                    if way > 0.9:  # another host would see an old heartbeat, and take the run over
                        forget(store.folder(id))
                        done["declared dead"] += 1
    finally:
        for _, pid in asleep:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for engine in engines:
            engine.terminate()
        for engine in engines:
            engine.wait(60)
    assert {id: outcome(store.folder(id)) for id in calm} == expected
    return done


def checkpoints(folder: Path) -> list[str]:
    """The names of a run's checkpoints."""
    return sorted(path.name for path in (folder / "checkpoint").glob("*"))


def holder(folder: Path) -> int | None:
    """The process that holds a run."""
    try:
        claim = json.loads((folder / "lease" / str(newest(folder))).read_bytes())
    except (OSError, ValueError):
        return None
    pid = claim.get("pid")
    living = isinstance(pid, int) and not claim.get("released") and _living(pid, claim["started"])
    return pid if living else None  # a number may be another process's by now


def forget(folder: Path) -> None:
    """Make the newest claim that of another host, its heartbeat old."""
    file = folder / "lease" / str(newest(folder))
    claim = json.loads(file.read_bytes())
    file.write_text(json.dumps({**claim, "where": ["elsewhere", "boot", "pid:[1]"]}))
    os.utime(file, (time.time() - 2 * LIMIT,) * 2)


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path: Path) -> None:
    done = disturb(tmp_path, runs=int(os.environ.get("RUNS", 12)), kills=int(os.environ.get("KILLS", 100)))
    print(done)
    assert done["killed"] + done["engines killed"] >= int(os.environ.get("KILLS", 100))
