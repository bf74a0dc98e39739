"""What the benchmarks print is what they measured."""

import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "engine")]

import compiling  # noqa: E402
import decode  # noqa: E402
import loss  # noqa: E402
import mixers  # noqa: E402
import record  # noqa: E402
import report  # noqa: E402
import rivals  # noqa: E402
import schedule  # noqa: E402
import step  # noqa: E402
import study  # noqa: E402
from clock import arguments  # noqa: E402
from gpu import peers, processes  # noqa: E402

from ablate.registry import registries  # noqa: E402


def test_results_are_made_of_the_stored_numbers():
    assert (BENCHMARKS / "RESULTS.md").read_text() == report.report(), "run benchmarks/report.py"


def test_figures_are_drawn_of_the_stored_numbers():
    drawn = report.figures()
    assert set(drawn) == {file.name for file in BENCHMARKS.glob("*.svg")}
    for name, svg in drawn.items():
        assert (BENCHMARKS / name).read_text() == svg, "run benchmarks/report.py"
        assert f"]({name})" in report.report()


def test_a_figure_shows_the_median_of_each_row(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    (title, (file, name, value)) = next(iter(report.FIGURES.items()))
    rows = [["7M eager fp32", [1.0, 1.25, 1.5]], ["7M eager bf16", [0.75]]]
    record.save("step", [record.Table(title, [name, value], rows)])
    svg = report.figures()[file]
    assert all(f">{said}<" in svg for said in ("7M eager fp32", "1.25", "7M eager bf16", "0.75"))


def test_a_cell_of_rounds_shows_their_median_and_range(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    rows = [["ours", [3.0, 1.0, 2.5], 12345], ["theirs", [250.0], None]]
    record.save("speed", [record.Table("rates", ["who", "rate", "tokens"], rows, "higher is better")])
    (found,) = record.load()
    said = report.section(found)
    assert "| ours | 2.500 [1.000..3.000] | 12,345 |" in said
    assert "| theirs | 250 |  |" in said
    assert "higher is better" in said and found["command"] in said


def test_a_command_is_said_as_it_is_to_be_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu", "--profile", "t5, sdpa"])
    record.save("speed", [])
    (found,) = record.load()
    assert found["command"] == "python benchmarks/gpu --profile 't5, sdpa'"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 columns"):
        record.Table("rates", ["who", "rate"], [["ours"]])


@pytest.mark.parametrize("option", ["--rounds", "--threads"])
def test_no_rounds_and_no_threads_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        arguments(None, rounds=3).parse_args([option, "0"])
    assert f"argument {option}: must be at least 1" in capsys.readouterr().err


def test_one_round_of_compiling_has_no_next_time():
    (*first, later) = compiling.row("0.05M", [compiling.Compiled(0.02, 0.01, 30.0)])
    assert first == ["0.05M", [20.0], [10.0], [2.0], 30.0] and later is None


@pytest.mark.parametrize("case", ["7M/eager", "7M/eagre/fp32", "9M/eager/fp32"])
def test_a_case_that_is_none_is_refused(case, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "--cases", case])
    with pytest.raises(SystemExit):
        step.main()
    said = capsys.readouterr().err
    assert f"invalid choice: '{case}'" in said and "'7M/eager/fp32'" in said


@pytest.mark.parametrize("case", ["default", "keeping"])
def test_settings_of_the_allocator_outlast_a_case(case, monkeypatch):
    (name, *_) = step.KEEPING
    monkeypatch.setenv(name, "5")
    with step.allocator(step.Case("7M", "eager", "fp32", case)):
        assert os.environ[name] == ("5" if case == "default" else step.KEEPING[name])
    assert os.environ[name] == "5"


def test_as_many_runs_as_slots_are_scheduled(capsys):
    schedule.schedule(runs=1, seconds=0.01, slots=1, busy=False)
    assert "ratio" in capsys.readouterr().out


def test_decoding_without_its_peer_says_so(monkeypatch, capsys):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["decode.py"])
    decode.main()
    assert capsys.readouterr().out.startswith("transformers is not installed, so it is left out")


@pytest.mark.parametrize("error", [EOFError(), RuntimeError("out of memory"), BrokenPipeError()])
def test_a_rival_that_fails_takes_no_results_of_others(error, monkeypatch):
    class Rival:
        def __init__(self, case, profile):
            self.case = case

        def hear(self):
            return 0.0

        def turn(self):
            if self.case.rival == "litgpt":
                raise error
            return 0.25, 2**30

        def end(self):
            assert self.case.rival == "ablate"

    monkeypatch.setattr(processes, "Rival", Rival)
    cases = [processes.Case(rival, "125M", 1024) for rival in ("litgpt", "ablate")]
    assert processes.compete(cases, 2, "") == {cases[1]: [(0.25, 2**30)] * 2}


def test_peers_alone_are_measured_beside_ablate(monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda name: True)
    monkeypatch.setattr(
        peers, "compete", lambda cases, rounds, profile: {case: [(0.25, 2**30)] for case in cases}
    )
    given = Namespace(sizes=["125M"], contexts=[1024, 4096], rivals=["litgpt"], rounds=1, profile="")
    ((_, (best, every)),) = peers.peers(given, 1e12)
    assert [row[:2] for row in best.rows] == [["125M, 1024", "litgpt"], ["125M, 4096", "litgpt"]]
    assert len(every.rows) == 4


@pytest.mark.parametrize("runs", ["0", "3"])
def test_a_study_has_the_runs_that_were_asked_for(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study.py", "--runs", runs])
    with pytest.raises(SystemExit):
        study.main()
    assert f"--runs {runs}: must be a multiple of 2" in capsys.readouterr().err


def test_a_torch_without_a_loss_in_slices_is_left_out(monkeypatch):
    monkeypatch.delattr("torch.nn.LinearCrossEntropyOptions", raising=False)
    assert list(loss.passes(64, 8, 4)) == ["whole", "slices"]


def test_each_token_mixer_is_measured_or_left_out_with_a_reason():
    measured = mixers.mixers([])
    assert {*measured, *mixers.LEFT_OUT} == set(registries["attention"])
    assert not set(measured) & set(mixers.LEFT_OUT)
    for attention in measured.values():
        mixers.model(attention, 16)


def test_a_recurrence_is_measured_in_both_forms():
    (rivals,) = mixers.recurrences({"name": "retnet"}, 8)
    for form in rivals.values():
        form()
    assert set(rivals) == {"loop", "chunks"}
    assert mixers.recurrences({"name": "short_convolution"}, 8) == []
