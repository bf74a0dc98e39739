"""The same runs on a Ray cluster of three nodes on one machine, one of which is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_launch import WORK, count, job, statuses, wait_for

from ablate.engine.launch import Event
from ablate.engine.remote import launch_remote
from ablate.engine.store import Store

ray = pytest.importorskip("ray")
from ablate.engine.ray import RayPool  # noqa: E402

pytestmark = pytest.mark.slow


class Nodes:
    """Three node processes of Ray, each with two cores of its own count."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
        )
        self.others = [self.cluster.add_node(num_cpus=2) for _ in range(2)]
        self.cluster.wait_for_nodes()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()


def test_a_node_that_is_killed_in_the_middle_loses_nothing_and_repeats_nothing(nodes, tmp_path):
    jobs = [job(tmp_path, n, seconds=3.0) for n in range(18)]
    store = Store(tmp_path / "runs")
    pool = RayPool(store, WORK, address=nodes.cluster.address)
    assert pool.capacity() == 6
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        if len(nodes.others) == 2 and sum(e.kind == "begun" for e in events) >= 10:  # amid the second wave
            time.sleep(1.0)
            nodes.cluster.remove_node(nodes.others.pop(), allow_graceful=False)

    launch_remote(jobs, pool, hear, store=store, check=0.1)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(18)}
    ends = count(tmp_path, "end")
    assert ends == {f"r{n}": 1 for n in range(18)}  # no run came to its end twice
    begins = count(tmp_path, "begin")
    again = {id for id, times in begins.items() if times > 1}
    assert 1 <= len(again) <= 4 and max(begins.values()) == 2  # what two cores had, or were just given
    assert Counter(e.kind for e in events)["ended"] == 18
    lost = [e.reason for e in events if e.kind in ("again", "elsewhere")]
    assert lost and all(reason.startswith("Ray: the node was lost") for reason in lost)
    wait_for(lambda: pool.capacity() == 4, 90)


def test_failures_are_recorded_and_tried_again(nodes, tmp_path):
    jobs = [job(tmp_path, 0), job(tmp_path, 1, way="raise"), job(tmp_path, 2, way="kill once")]
    store = Store(tmp_path / "runs")
    events: list[Event] = []
    launch_remote(
        jobs, RayPool(store, WORK, address=nodes.cluster.address), events.append, store=store, check=0.1
    )
    assert statuses(tmp_path) == {"r0": "finished", "r1": "crashed", "r2": "finished"}
    assert count(tmp_path, "begin") == {"r0": 1, "r1": 2, "r2": 2}
    assert {e.id for e in events if e.kind == "again"} == {"r1", "r2"}


def test_ctrl_c_stops_the_runs_and_they_say_so(tmp_path):
    """The driver is a process of its own; Ray starts a local cluster for it."""
    driver = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_launch import WORK, job
from ablate.engine.ray import RayPool
from ablate.engine.remote import launch_remote
from ablate.engine.store import Store
folder = Path({str(tmp_path)!r})
store = Store(folder / "runs")
launch_remote([job(folder, 0, seconds=60.0)], RayPool(store, WORK), print, store=store, check=0.1, grace=20)
"""
    process = subprocess.Popen([sys.executable, "-c", driver], env=dict(os.environ), start_new_session=True)
    wait_for(lambda: count(tmp_path, "begin"), 60)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert statuses(tmp_path) == {"r0": "interrupted"}
    assert Path(tmp_path / "runs" / "r0" / "log").exists()
