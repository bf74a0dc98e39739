"""`ablate status`: how far a study is, from its folder alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import STUDY, asked_of

from ablate.__main__ import main
from ablate.cli.jobs import Jobs
from ablate.engine.lease import beating, take
from ablate.engine.roster import Roster, RosterRun, load_roster, roster_file
from ablate.engine.status import study_status
from ablate.record import RunRecord
from ablate.study.design.study import load_study


def record(root: Path, id: str, status: str, **rest) -> None:
    RunRecord(id=id, status=status, source_hash="now", spec={}, fingerprint={}, **rest).save(root / id)


@pytest.fixture
def root(tmp_path) -> Path:
    """Six runs: finished, crashed, stale, diverged, running at half, not begun."""
    root = tmp_path / "runs"
    ids = ("fine", "crash", "stale", "far", "live", "none")
    runs = tuple(
        RosterRun(id=id, label=f"base rope seed {n}", arm="rope", role="test", source_hash="now", steps=10)
        for n, id in enumerate(ids)
    )
    Roster(study="small", runs=runs, slots=2, complete=True).save(root)
    record(root, "fine", "finished", speed={"seconds": 100.0})
    record(root, "crash", "crashed", reason="the worker was killed by SIGKILL")
    record(root, "far", "diverged", reason="the loss was nan at step 3")
    older = RunRecord(id="stale", status="finished", source_hash="before", spec={}, fingerprint={})
    older.save(root / "stale")
    return root


def test_every_state_is_told_apart_and_the_time_left_follows(root):
    lease = take(root / "live")
    assert lease is not None
    (root / "live" / "curve.jsonl").write_text('{"step": 5, "seconds": 50.0}\n{"step": 6, "sec')
    with beating(lease, lambda: None):
        status = study_status(load_roster(root, "small"), root)
    states = {run.run.id: run.state for run in status.runs}
    assert states == {
        "fine": "finished", "crash": "crashed", "stale": "stale", "far": "diverged", "live": "running",
        "none": "waiting",
    }  # fmt: skip
    # Half of the running one, and three of 100 s, on two slots.
    assert status.seconds_left == (50 + 3 * 100) / 2
    (live,) = status.of("running")
    assert (live.step, live.seconds) == (5, 50.0) and "process" in live.where
    lease.release()
    after = study_status(load_roster(root, "small"), root)
    assert {run.run.id: run.state for run in after.runs}["live"] == "waiting"


def test_the_command_shows_arms_failures_and_json(root, capsys):
    assert main(["status", "experiment=small", f"runs={root}"]) == 0
    out = capsys.readouterr().out
    assert "2/6 done" in out and "nobody is at work" in out
    assert "crashed  base rope seed 1  the worker was killed by SIGKILL" in out
    assert main(["status", f"runs={root}", "json=true"]) == 0
    (study,) = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in study["runs"]].count("waiting") == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["experiment=other"], "other has not been started with runs={root}; started: small."),
        (["experiments=small"], "experiments: is no option of status"),
        (["json=yes"], "json: true or false, not 'yes'"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(root, capsys, given, said):
    assert main(["status", f"runs={root}", *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ablate status: ") and said.format(root=root) in err and err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "[]", '{"study": "small"}', '{"runs": 3}'])
def test_a_damaged_list_is_refused_with_its_file(root, capsys, content):
    roster_file(root, "small").write_text(content)
    assert main(["status", f"runs={root}", "experiment=small"]) == 2
    assert f"{roster_file(root, 'small')} is no list of runs" in capsys.readouterr().err


def test_nothing_is_written_and_torch_is_not_imported(root):
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    asked = ["status", "experiment=small", f"runs={root}"]
    code = f"import sys; from ablate.__main__ import main; main({asked!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))


def test_a_study_lists_all_runs_that_it_knows(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    folder = tmp_path / "experiments" / "small"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.format(text=tmp_path / "a.txt"))
    study = asked_of(tmp_path)
    planned = study.planned(load_study(study.file))
    Jobs(study.workspace, planned, (), study.console).list_runs(study.known_runs(planned))
    roster = load_roster(tmp_path, "small")
    assert roster.complete and len(roster.runs) == 8 and {run.steps for run in roster.runs} == {10}
    assert [run.label for run in roster.runs][:2] == ["base rope seed 0", "base alibi seed 0"]
    assert {run.state for run in study_status(roster, tmp_path).runs} == {"waiting"}
