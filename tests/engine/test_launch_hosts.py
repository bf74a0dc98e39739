"""Two hosts on one store: each is a namespace of network, name and processes of its own, so that neither sees
the other but by the files."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_launch import count, engine, job, statuses, wait_for

WALLS = ["unshare", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def namespaces() -> bool:
    """Whether this user may make them."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*WALLS, "true"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not namespaces(), reason="namespaces cannot be made here (root can)")


def host(name: str) -> list[str]:
    """What stands before a command so that it runs on a host of this name."""
    return [*WALLS, "sh", "-c", 'hostname "$0"; exec "$@"', name]


def held_by(name: str, folder: Path) -> set[str]:
    """The runs that are under way on a host; a claim that is given back names none."""
    claims = (path for path in folder.glob("runs/*/lease/*") if path.name.isdigit())
    found = [(path.parts[-3], json.loads(path.read_text()).get("where")) for path in claims]
    return {id for id, where in found if where and where[0] == name}


def test_two_hosts_share_the_runs_and_none_is_done_twice(tmp_path):
    jobs = [job(tmp_path, n, seconds=0.7) for n in range(20)]
    engines = [engine(tmp_path, jobs, before=host(name)) for name in ("north", "south")]
    said = [each.communicate(timeout=300)[0] for each in engines]
    assert [each.returncode for each in engines] == [0, 0], said
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(20)}
    assert set(count(tmp_path, "begin").values()) == {1} == set(count(tmp_path, "end").values())
    ended = [set(re.findall(r"kind='ended', id='(r\d+)'", each)) for each in said]
    assert all(ended) and not ended[0] & ended[1] and len(ended[0] | ended[1]) == 20


@pytest.mark.slow
def test_a_host_that_is_lost_is_followed_by_the_other(tmp_path):
    """It is seen by its silence alone: two minutes without a heartbeat."""
    jobs = [job(tmp_path, n, seconds=2.0) for n in range(16)]
    north, south = (engine(tmp_path, jobs, before=host(name)) for name in ("north", "south"))
    wait_for(lambda: held_by("north", tmp_path), 100)
    time.sleep(0.3)
    os.kill(north.pid, signal.SIGKILL)  # and with it all that lives there
    north.wait()
    lost = held_by("north", tmp_path)
    said = south.communicate(timeout=500)[0]
    assert south.returncode == 0, said
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(16)}
    assert count(tmp_path, "end") == {f"r{n}": 1 for n in range(16)}
    again = {id for id in lost if (tmp_path / "runs" / id / "lease" / "2").exists()}
    assert again == lost and lost
    assert {id for id, times in count(tmp_path, "begin").items() if times > 1} <= again
