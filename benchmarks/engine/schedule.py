"""Scheduling: equal runs against the ideal, and the start-up of a run in a warm worker.

    python benchmarks/schedule.py                 24 runs of 20 s on all cores: the target is 1.15 x ideal
    python benchmarks/schedule.py --seconds 2     the same, scaled down
    python benchmarks/schedule.py --busy          runs that compute instead of sleeping
    python benchmarks/schedule.py --records       reading a store of 10,000 records

ideal = sum of the runs' own times, taken with all slots busy, / slots.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ablate.engine.launch import Event, launch
from ablate.engine.slots import cpu_slots
from ablate.engine.store import Store
from ablate.engine.worker import Job
from ablate.record import RunRecord


def work(payload: dict[str, Any]) -> None:
    begin = time.perf_counter()
    if payload["busy"]:
        for _ in range(payload["loops"]):
            sum(range(1000))
    else:
        time.sleep(payload["seconds"])
    spent = {"seconds": time.perf_counter() - begin}
    record = RunRecord(
        id=payload["id"], status="finished", source_hash="c", spec={}, fingerprint={}, speed=spent
    )
    record.save(Path(payload["outbox"]))


def loops_for(seconds: float) -> int:
    begin, loops = time.perf_counter(), 0
    while time.perf_counter() - begin < 1.0:
        sum(range(1000))
        loops += 1
    return round(loops * seconds)


def schedule(runs: int, seconds: float, slots: int, busy: bool) -> None:
    loops = loops_for(seconds) if busy else 0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        jobs = [
            Job(id, {"id": id, "seconds": seconds, "busy": busy, "loops": loops}, source_hash="c")
            for id in (f"run{n:03d}" for n in range(runs))
        ]
        events: list[Event] = []
        begin = time.perf_counter()
        launch(jobs, cpu_slots(slots), "schedule:work", events.append, store=store)
        wall = time.perf_counter() - begin
        own = sum(record.speed["seconds"] for record in store.records())
    late = [e.late for e in events if e.kind == "begun"]
    warm = late[slots:]  # the first of each worker pays for the imports
    ideal = own / slots
    print(
        f"{runs} {'busy' if busy else 'sleeping'} runs of {own / runs:.2f} s in {slots} slots: "
        f"{wall:.2f} s, ideal {ideal:.2f} s, ratio {wall / ideal:.3f}"
    )
    print(f"start-up of a worker and its first run: {1e3 * max(late[:slots]):.0f} ms")
    if warm:
        print(
            f"start-up in a warm worker: median {1e3 * statistics.median(warm):.1f} ms, "
            f"worst {1e3 * max(warm):.1f} ms"
        )


def records(number: int) -> None:
    """A store of records as a study leaves them: about 9 kB each."""
    draw = random.Random(0)
    options = {"name": "x", "scale": 1.0, "bias": True}
    parts = ["norm", "placement", "topology", "position", "attention", "ffn", "init", "kernel"]
    spec = {"model": dict.fromkeys(parts, options), "seed": {"init": 1, "data": 1, "dropout": 1}}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for n in range(number):
            id = f"{n:012x}"
            RunRecord(
                id=id,
                status="finished",
                source_hash="c",
                spec=spec,
                fingerprint={"text": "a", "tokenizer": "b"},
                metrics={f"measure/{m}": draw.random() for m in range(20)},
                vectors={"heldout/by_document": [draw.random() for _ in range(300)]},
                provenance={"versions": {f"library{m}": "1.0" for m in range(20)}},
            ).save(store.folder(id))
        begin = time.perf_counter()
        read = sum(1 for _ in store.records())
        print(f"{read} records: read and validated in {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--records", action="store_true")
    said = parser.parse_args()
    if said.records:
        records(10_000)
    else:
        schedule(said.runs, said.seconds, said.slots, said.busy)
