"""A run that was stopped goes on as if it had not been: the same weights, bit for bit."""

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from cases import HARD
from safetensors.torch import load_file
from torch import Tensor
from training import MOE, QUIET, curve, prepared_for, run_spec, write_text

from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train import callback
from ablate.train.fit import fit
from ablate.train.monitor.interrupt import SIGNALS
from ablate.train.monitor.progress import Progress
from ablate.train.settings import LoggerSpec
from ablate.train.state.checkpoint import Checkpoints
from ablate.train.task import Task

CASES = {
    "dropout": {"dropout": 0.2},
    "experts": {"dropout": 0.1, "ffn": {**MOE, "bias_update_rate": 0.01, "capacity_factor": 1.25}},
}
SETTINGS = QUIET.model_copy(update={"checkpoint_steps": 3})


@pytest.fixture(autouse=True)
def _report_each_step(monkeypatch):
    monkeypatch.setattr(callback, "OFTEN", 0.0)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def at_step(step: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    def hear(progress: Progress) -> None:
        if progress.step == step:
            act()

    return hear


def train(spec: RunSpec, runs: Path, text: Path, **options) -> RunRecord:
    return fit(spec, prepared_for(spec, text.parent), options.pop("settings", SETTINGS), runs, **options)


def weights(runs: Path, record: RunRecord) -> dict:
    return load_file(runs / record.id / "weights" / "model.safetensors")


def assert_same(one: Path, other: Path, record: RunRecord) -> None:
    first, second = weights(one, record), weights(other, record)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].equal(second[name]), name
    pd.testing.assert_frame_equal(curve(one / record.id), curve(other / record.id), check_exact=True)


@pytest.fixture(scope="module", params=CASES)
def whole(request, text, tmp_path_factory) -> tuple[RunSpec, Path, RunRecord]:
    """A run that nothing stopped."""
    spec = run_spec(text, CASES[request.param])
    runs = tmp_path_factory.mktemp("whole")
    return spec, runs, train(spec, runs, text)


def test_a_run_that_goes_on_says_from_which_step(text, tmp_path, capsys):
    spec = run_spec(text)
    settings = SETTINGS.model_copy(update={"progress": "auto"})
    stop = at_step(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = train(spec, tmp_path, text, settings=settings, on_progress=stop)
    assert stopped.status == "interrupted" and "goes on" not in capsys.readouterr().out
    train(spec, tmp_path, text, settings=settings)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "goes on" in line]
    assert line.endswith(f"goes on from step {5 if '5/12' in line else 6}/12; rerun=true starts over")


def test_what_is_known_goes_to_the_outbox_too(text, tmp_path):
    """A study's job may say older sources than those of a worker that began after an edit."""
    spec = run_spec(text, steps=4)
    record = train(spec, tmp_path, text)
    prepared = prepared_for(spec, text.parent)
    assert fit(spec, prepared, QUIET, tmp_path, outbox=tmp_path / "outbox") == record
    assert RunRecord.load(tmp_path / "outbox") == record


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_the_edge_of_a_step(number, whole, text, tmp_path):
    spec, runs, record = whole
    before = [signal.getsignal(n) for n in SIGNALS]
    stopped = train(spec, tmp_path, text, on_progress=at_step(5, lambda: os.kill(os.getpid(), number)))
    assert (stopped.status, stopped.reason) == ("interrupted", f"stopped by {number.name}")
    assert RunRecord.load(tmp_path / record.id).status == "interrupted"
    assert [signal.getsignal(n) for n in SIGNALS] == before
    seen: list[int] = []
    resumed = train(spec, tmp_path, text, on_progress=lambda p: seen.append(p.step))
    assert resumed.status == "finished"
    assert seen[0] in (6, 7)  # the signal is noticed at the end of this step or of the next
    assert resumed.metrics == record.metrics
    assert_same(runs, tmp_path, record)


def test_a_hard_kill_goes_back_to_the_checkpoint(whole, text, tmp_path):
    spec, runs, record = whole
    child = os.fork()
    if child == 0:
        try:
            train(spec, tmp_path, text, on_progress=at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    rows = (tmp_path / record.id / "curve.jsonl").read_text().splitlines()
    assert len(rows) == 8
    seen: list[int] = []
    train(spec, tmp_path, text, on_progress=lambda p: seen.append(p.step))
    assert seen[0] == 7
    assert_same(runs, tmp_path, record)
    assert not (tmp_path / record.id / "checkpoint").exists()
    assert not (tmp_path / record.id / "curve.jsonl").exists()


@pytest.mark.parametrize("name", HARD)
def test_every_hard_combination_resumes_exactly(name, text, tmp_path):
    model = {**HARD[name], "vocab": 257, "dropout": 0.1}
    source = {"name": "text", "files": [str(text)]}
    reading = {"source": source, "tokenizer": "bytes", "prefix": name == "prefix"}
    spec = run_spec(text, model, steps=5, data=reading, evaluation={"every": 0, "tokens": 1000})
    record = train(spec, tmp_path / "whole", text)
    stop = at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(spec, tmp_path / "stopped", text, on_progress=stop).status == "interrupted"
    assert train(spec, tmp_path / "stopped", text).metrics == record.metrics
    assert_same(tmp_path / "whole", tmp_path / "stopped", record)


@pytest.fixture
def crashed(text, tmp_path) -> tuple[RunSpec, Path]:
    """A run that fell down at step 8, with checkpoints of steps 3 and 6."""
    spec = run_spec(text, CASES["dropout"])

    def fall() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        train(spec, tmp_path, text, on_progress=at_step(8, fall))
    return spec, tmp_path


def checkpoints(runs: Path) -> list[Path]:
    return sorted(runs.glob("*/checkpoint/*"))


def test_a_full_disk_is_a_crash_that_can_be_gone_on_from(crashed, text):
    spec, runs = crashed
    record = RunRecord.load(next(runs.glob("*")))
    assert record.status == "crashed"
    assert "No space left on device" in record.reason
    assert [p.name[-1] for p in checkpoints(runs)] == ["3", "6"]
    assert train(spec, runs, text).status == "finished"


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"[1]\n", b"\xff\n"])
def test_lost_rows_of_the_curve_are_told(damage, crashed, text, caplog):
    spec, runs = crashed
    (file,) = runs.glob("*/curve.jsonl")
    kept = file.read_bytes().splitlines(keepends=True)[:4]
    file.write_bytes(b"".join(kept) + damage)
    record = train(spec, runs, text)
    left = [] if damage == b"\xff\n" else [1, 2, 3, 4]
    assert f"the rows from step {len(left) + 1} to 6 are lost" in caplog.text
    assert curve(runs / record.id)["step"].tolist() == [*left, *range(7, 13)]


def test_a_closed_terminal_stops_a_run_with_its_checkpoint(whole, text, tmp_path):
    spec, runs, record = whole
    child, terminal = pty.fork()
    if child == 0:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (not what the tests listen to)
        try:
            train(
                spec,
                tmp_path,
                text,
                settings=SETTINGS.model_copy(update={"progress": True}),
                on_progress=at_step(5, lambda: (print("five", flush=True), time.sleep(1))),
            )
        finally:
            os._exit(0)
    seen = b""
    while b"five" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stopped = RunRecord.load(tmp_path / record.id)
    assert (stopped.status, stopped.reason) == ("interrupted", "stopped by SIGHUP")
    seen_again: list[int] = []
    train(spec, tmp_path, text, on_progress=lambda p: seen_again.append(p.step))
    assert seen_again[0] in (6, 7)
    assert_same(runs, tmp_path, record)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_broken_checkpoint_is_passed_over(harm, crashed, text, caplog):
    spec, runs = crashed
    newer = checkpoints(runs)[-1]
    harm(newer / "state")
    seen: list[int] = []
    assert train(spec, runs, text, on_progress=lambda p: seen.append(p.step)).status == "finished"
    assert f"the checkpoint {newer} cannot be used" in caplog.text
    assert seen[0] == 4


def test_without_a_sound_checkpoint_the_run_starts_over(crashed, text, caplog):
    spec, runs = crashed
    for path in checkpoints(runs):
        cut(path / "state")
    seen: list[int] = []
    assert train(spec, runs, text, on_progress=lambda p: seen.append(p.step)).status == "finished"
    assert "starting over" in caplog.text
    assert seen == list(range(1, 13))


def test_what_was_passed_over_pushes_no_new_checkpoint_out(crashed, text):
    spec, runs = crashed
    for path in checkpoints(runs):
        cut(path / "state")
    stop = at_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(spec, runs, text, on_progress=stop).status == "interrupted"
    seen: list[int] = []
    assert train(spec, runs, text, on_progress=lambda p: seen.append(p.step)).status == "finished"
    assert seen[0] in (2, 3)


def test_a_checkpoint_of_other_sources_is_not_used(crashed, text, caplog):
    spec, runs = crashed
    for path in checkpoints(runs):
        path.rename(path.with_name(path.name.replace(path.name[:12], "0" * 12)))
    seen: list[int] = []
    train(spec, runs, text, on_progress=lambda p: seen.append(p.step))
    assert "other sources" in caplog.text
    assert seen[0] == 1


def test_stopped_at_the_last_step(whole, text, tmp_path):
    spec, runs, record = whole
    stop = at_step(12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(spec, tmp_path, text, on_progress=stop).status == "interrupted"
    assert train(spec, tmp_path, text).metrics == record.metrics
    assert_same(runs, tmp_path, record)


def test_stopped_while_it_validates_at_the_end(whole, text, tmp_path, monkeypatch):
    spec, runs, record = whole
    real = callback.evaluate

    def stopped(*given, tokens, **named):
        if tokens is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, tokens=tokens, **named)

    with monkeypatch.context() as patched:
        patched.setattr(callback, "evaluate", stopped)
        assert train(spec, tmp_path, text).status == "interrupted"
    seen: list[int] = []
    assert train(spec, tmp_path, text, on_progress=lambda p: seen.append(p.step)).metrics == record.metrics
    assert seen == []
    assert_same(runs, tmp_path, record)


@pytest.fixture(scope="module")
def rarely(text, tmp_path_factory) -> tuple[RunSpec, Path, RunRecord]:
    """A run with rows at 5, 10 and 12 alone."""
    spec = run_spec(text, CASES["dropout"], evaluation={"every": 0, "tokens": 1000})
    runs = tmp_path_factory.mktemp("rarely")
    return spec, runs, train(spec, runs, text, settings=RARELY)


RARELY = SETTINGS.model_copy(update={"log_every": 5})


def made_at(step: int, act: Callable[[], None]) -> Callable[..., None]:
    """`Task.record_step` that acts at the step of this number."""
    real = Task.record_step

    def made(self: Task, at: int, loss: Tensor) -> None:
        real(self, at, loss)
        if at + 1 == step:
            act()

    return made


def test_a_signal_between_rows_stops_there(rarely, text, tmp_path, monkeypatch):
    spec, runs, record = rarely
    counted: list[int] = []
    real = callback.Speed.add

    def add(self: callback.Speed, tokens: int, seconds: float) -> None:
        counted.append(tokens // spec.budget.batch_tokens)
        real(self, tokens, seconds)

    monkeypatch.setattr(callback.Speed, "add", add)
    with monkeypatch.context() as patched:
        patched.setattr(Task, "record_step", made_at(7, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert train(spec, tmp_path, text, settings=RARELY).status == "interrupted"
    assert [p.name[-2:] for p in checkpoints(tmp_path)] == ["06", "07"]
    assert len((tmp_path / record.id / "curve.jsonl").read_text().splitlines()) == 1
    assert train(spec, tmp_path, text, settings=RARELY).metrics == record.metrics
    assert counted == [5, 5, 2]
    assert_same(runs, tmp_path, record)


def test_a_crash_between_rows_goes_back_to_the_checkpoint(rarely, text, tmp_path, monkeypatch):
    spec, runs, record = rarely

    def fall() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Task, "record_step", made_at(8, fall))
        with pytest.raises(OSError, match="No space"):
            train(spec, tmp_path, text, settings=RARELY)
    assert [p.name[-2:] for p in checkpoints(tmp_path)] == ["03", "06"]
    assert train(spec, tmp_path, text, settings=RARELY).metrics == record.metrics
    assert_same(runs, tmp_path, record)


def test_the_time_between_rows_is_not_lost(rarely, text, tmp_path, monkeypatch):
    """By a clock that only steps move: the time of a checkpoint is none of training."""
    spec, _, record = rarely
    now = [0.0]

    def tick() -> None:
        now[0] += 1.0

    monkeypatch.setattr(
        callback, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    )
    saved = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *given: (now.__setitem__(0, now[0] + 100), saved(*given)))
    real = Task.record_step

    def made(self: Task, at: int, loss: Tensor) -> None:
        real(self, at, loss)
        tick()
        if at + 1 == 7 and first:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Task, "record_step", made)
    first = True
    train(spec, tmp_path, text, settings=RARELY)
    first = False
    train(spec, tmp_path, text, settings=RARELY)
    seconds = pd.read_parquet(tmp_path / record.id / "curve.parquet")["seconds"]
    assert seconds.tolist() == [5.0, 10.0, 12.0]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_losses_of_a_lone_process_are_counted_once_by_several(rank, text, monkeypatch):
    monkeypatch.setattr(Task, "global_rank", rank)
    task = Task(run_spec(text), None, SETTINGS)
    task.on_load_checkpoint({"untaken": (torch.tensor(9.0), 3)})
    assert (float(task.total), task.summed) == (9.0 * (rank == 0), 3)


def test_a_checkpoint_of_another_strategy_is_said_and_kept(crashed, text):
    spec, runs = crashed
    with pytest.raises(ValueError, match="is of another strategy"):
        train(spec, runs, text, settings=SETTINGS.model_copy(update={"strategy": "fsdp"}))
    seen: list[int] = []
    train(spec, runs, text, on_progress=lambda p: seen.append(p.step))
    assert seen[0] == 7


def test_no_rank_takes_up_what_the_first_is_about_to_drop(crashed, text, monkeypatch):
    spec, runs = crashed
    monkeypatch.setenv("RANK", "1")
    seen: list[int] = []
    train(spec, runs, text, rerun=True, on_progress=lambda p: seen.append(p.step))
    assert seen[0] == 1


def test_a_csv_mirror_of_a_resumed_run_is_whole(whole, text, tmp_path):
    spec, _, record = whole
    settings = SETTINGS.model_copy(update={"logger": LoggerSpec(name="csv", config={})})
    stop = at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(spec, tmp_path, text, settings=settings, on_progress=stop).status == "interrupted"
    train(spec, tmp_path, text, settings=settings)
    rows = pd.read_csv(tmp_path / record.id / "csv" / "metrics.csv").dropna(subset="train/loss")
    assert rows["step"].tolist() == list(range(1, 13))
    assert rows["train/loss"].tolist() == curve(tmp_path / record.id)["loss"].tolist()


def test_a_signal_is_handed_on_to_who_asked_for_it(text, tmp_path):
    """As to a worker process, which stops after the run."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        spec = run_spec(text)
        stop = at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(spec, tmp_path, text, on_progress=stop).status == "interrupted"
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
