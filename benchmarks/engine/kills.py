"""Kill -9, at random moments, of workers and of engines, over a study of short runs on two engines.

    python benchmarks/kills.py --kills 200

Two engines share one store, and each is started again whenever it was killed. Runs note their begin and
their end in an append-only log. Afterwards: is every run recorded, was any begun after it had been
recorded, or while another process was doing it, and is the result the one of an undisturbed study?
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ablate.engine.launch import Event, launch
from ablate.engine.slots import cpu_slots
from ablate.engine.store import Store
from ablate.engine.worker import Job
from ablate.record import RunRecord


def note(folder: str, *words: object) -> None:
    handle = os.open(Path(folder) / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\n").encode())
    os.close(handle)


def work(payload: dict[str, Any]) -> None:
    """A short run whose result depends on its seed alone."""
    note(payload["folder"], "begin", payload["id"], os.getpid())
    place = Path(payload["outbox"]).parent.parent / "record.json"
    if place.exists() and RunRecord.load(place.parent).status == "finished":
        note(payload["folder"], "twice", payload["id"], os.getpid())
    draw = random.Random(payload["seed"])
    end = time.monotonic() + payload["seconds"]
    while time.monotonic() < end:
        time.sleep(0.002)
        note(payload["folder"], "alive", payload["id"], os.getpid())
    record = RunRecord(
        id=payload["id"],
        status="finished",
        source_hash="c",
        spec={"seed": payload["seed"]},
        fingerprint={},
        metrics={"loss": draw.random()},
    )
    record.save(Path(payload["outbox"]))


def jobs(folder: Path, runs: int, seconds: float) -> list[Job]:
    return [
        Job(
            id,
            {"id": id, "seed": n, "seconds": seconds, "folder": str(folder)},
            source_hash="c",
            spec={"seed": n},
        )
        for n, id in enumerate(f"run{n:04d}" for n in range(runs))
    ]


def sweep(folder: Path, runs: int, seconds: float) -> None:
    """What each engine's process does."""

    def say(event: Event) -> None:
        note(str(folder), "event", event.id, os.getpid(), event.kind, event.status)

    store = Store(folder / "runs")
    launch(jobs(folder, runs, seconds), cpu_slots(2), "kills:work", say, store=store, check=0.1, retries=1000)


def start(folder: Path, runs: int, seconds: float) -> "subprocess.Popen[bytes]":
    said = ["--engine", str(folder), "--runs", str(runs), "--seconds", str(seconds)]
    return subprocess.Popen([sys.executable, __file__, *said])


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def suffer(folder: Path, runs: int, seconds: float, kills: int, draw: random.Random) -> Counter[str]:
    """Run the study to its end under fire. Returns what was killed."""
    engines = [start(folder, runs, seconds) for _ in range(2)]
    killed: Counter[str] = Counter()
    while any(engine.poll() is None for engine in engines):
        time.sleep(draw.uniform(0.02, 0.35))
        for n, engine in enumerate(engines):
            if engine.poll() is not None and engine.returncode != 0:
                engines[n] = start(folder, runs, seconds)
        live = [engine for engine in engines if engine.poll() is None]
        if killed.total() == kills or not live:
            continue
        engine = draw.choice(live)
        workers = children(engine.pid)
        if draw.random() < 0.3 or not workers:
            engine.kill()
            engine.wait()
            killed["engines"] += 1
        else:
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed["workers"] += 1
    return killed


def overlaps(lines: list[list[str]]) -> int:
    """How often a process showed life in a run after a later process had begun the same run."""
    holder: dict[str, str] = {}
    wrong = 0
    for _, what, id, pid, *_ in lines:
        if what == "begin":
            holder[id] = pid
        elif what == "alive" and holder[id] != pid:
            wrong += 1
    return wrong


def judge(folder: Path, runs: int, killed: Counter[str], wall: float) -> bool:
    store = Store(folder / "runs")
    records = {record.id: record for record in store.records()}
    lines = sorted(
        (line.split() for line in (folder / "log").read_text().splitlines()), key=lambda line: int(line[0])
    )
    begun = Counter(line[2] for line in lines if line[1] == "begin")
    recorded = Counter(line[2] for line in lines if line[1] == "event" and line[4:] == ["ended", "finished"])
    result = {id: record.metrics["loss"] for id, record in records.items() if record.status == "finished"}
    undisturbed = {job.id: random.Random(job.payload["seed"]).random() for job in jobs(folder, runs, 0)}
    figures = {
        "kills": dict(killed),
        "wall_seconds": round(wall, 1),
        "runs": runs,
        "finished": len(result),
        "attempts": begun.total(),
        "broken_records": len(store.broken),
        "begun_after_recorded": sum(line[1] == "twice" for line in lines),
        "two_at_once": overlaps(lines),
        "reported_finished_twice": sum(n > 1 for n in recorded.values()),
        "equal_to_undisturbed": result == undisturbed,
    }
    print(json.dumps(figures, indent=1))
    wrong = ("broken_records", "begun_after_recorded", "two_at_once", "reported_finished_twice")
    return result == undisturbed and not any(figures[name] for name in wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.engine:
        sweep(Path(said.engine), said.runs, said.seconds)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic()
        killed = suffer(folder, said.runs, said.seconds, said.kills, random.Random(said.seed))
        fine = judge(folder, said.runs, killed, time.monotonic() - begin)
    if killed.total() < said.kills:
        print(f"the study ended after {killed.total()} kills: more runs are needed for {said.kills}")
    return 0 if fine and killed.total() == said.kills else 1


if __name__ == "__main__":
    sys.exit(main())
