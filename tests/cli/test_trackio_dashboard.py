"""Trackio's own dashboard, started on this machine and asked for the runs of a study."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_sweep import RUNS, STUDY, places
from training import curve

from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds in which the dashboard must answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(
        "\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200))
    )
    experiment = tmp_path / "experiments" / "small"
    experiment.mkdir(parents=True)
    (experiment / "study.yaml").write_text(STUDY.format(text=tmp_path / "a.txt"))
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"TRACKIO_DIR": str(tmp_path / "trackio"), "GRADIO_SERVER_PORT": port, "BROWSER": "true"}
    return {**os.environ, "HF_HUB_OFFLINE": "1", **names}


@pytest.fixture
def ask(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts `trackio show --project small`, as docs/trackers.md has it, and asks it what its page asks."""
    pytest.importorskip("trackio", reason="needs trackio")
    address = f"http://127.0.0.1:{environment['GRADIO_SERVER_PORT']}"
    command = [str(Path(sys.executable).parent / "trackio"), "show", "--project", "small"]

    def read(path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.read()

    def put(question: str, **said: Any) -> Any:
        return json.loads(read(f"/api/{question}", json.dumps(said).encode()))["data"]

    with (tmp_path / "said").open("w") as said:
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                assert b"<html" in read("/")
                break
            except OSError:
                alive = server.poll() is None and time.monotonic() < end
                assert alive, (tmp_path / "said").read_text()
                time.sleep(0.2)
        yield put
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_it_shows_a_study(folder, environment, ask):
    command = [sys.executable, str(ROOT / "sweep.py"), "experiment=small", *places(folder)]
    command += ["slots=2", "logger=trackio"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    records = {path.parent.name: RunRecord.load(path.parent) for path in folder.glob("runs/*/record.json")}
    assert ask("get_all_projects") == ["small"]
    shown = ask("get_runs_for_project", project="small")
    by_id = {run["name"].split()[-1]: run for run in shown}
    assert by_id.keys() == records.keys() and len(shown) == len(records) == RUNS
    configs = ask("get_run_configs", project="small")
    for id, record in records.items():
        name, config = by_id[id]["name"], configs[by_id[id]["id"]]
        assert name == f"small {config['corpus']} {config['arm']} seed {config['seed']} {id}"
        assert config["counts"]["parameters"] == record.counts["parameters"]
        assert config["_Group"] == f"{config['corpus']} {config['arm']}"
        rows = ask("get_logs", project="small", run=name)
        losses = [row["train/loss"] for row in rows if row.get("train/loss") is not None]
        assert losses == pytest.approx(curve(folder / "runs" / id)["loss"].tolist())
        (heldout,) = [row["heldout/loss"] for row in rows if row.get("heldout/loss") is not None]
        assert heldout == pytest.approx(record.metrics["heldout/loss"])
    arms = {(config["arm"], config["seed"]) for config in configs.values()}
    assert arms == {(arm, seed) for arm in ("rope", "alibi", "none", "placebo") for seed in (0, 1)}
