"""Costs of arms, timed in turn, and their table."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from report_world import world
from training import CONTEXT, MOE, run_spec, write_text

from ablate.measure.timing import TRAINING, Timing, _Runner, time_in_turn
from ablate.study.design.claim import Claim, kinds
from ablate.study.judge.timing import judge_timing
from ablate.study.report.timing import timing_table
from ablate.study.results import Results, read_results, write_results, write_timings


@pytest.fixture(scope="module")
def laps(tmp_path_factory) -> list[list[Timing]]:
    file = write_text(tmp_path_factory.mktemp("race"))
    specs = {
        "rope": run_spec(file),
        "learned": run_spec(file, {"position": "learned"}),
        "moe": run_spec(file, {"ffn": MOE}),
    }
    return list(time_in_turn(specs, rounds=2, contexts=(4, 2 * CONTEXT), batches=(1, 2), new=3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_is_timed_in_the_precision_of_the_runs(precision, tmp_path):
    runner = _Runner(run_spec(write_text(tmp_path), precision=precision), "cpu")
    seen = []
    runner.decoder.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    runner.train()
    assert seen == [precision == "bf16"]


def test_a_step_of_a_prefix_decoder_has_prefixes(tmp_path):
    """Without them its mask is plainly causal, for which kernels have a faster way."""
    file = write_text(tmp_path)
    model = {"attention": {"name": "softmax", "mask": "prefix"}}
    plain = run_spec(file)
    spec = run_spec(file, model, data={**plain.data.model_dump(mode="json"), "prefix": True})
    runner = _Runner(spec, "cpu")
    seen = []
    runner.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[1].prefix))
    runner.train()
    assert seen[0].tolist() == [CONTEXT // 2] * spec.rows


@pytest.fixture
def results(tmp_path) -> Results:
    return world(tmp_path)


def timed(folder, results: Results, rows: list[tuple]) -> Results:
    """The results as they are read once these laps are kept beside them."""
    write_results(results, folder)
    write_timings(folder, rows, {"device_kind": "a CPU", "torch": "2", "git": None})
    return read_results(folder)


def test_every_model_is_timed_at_everything_in_every_round(laps):
    assert len(laps) == 2
    for n, each in enumerate(laps):
        assert {lap.round for lap in each} == {n}
        assert all(lap.seconds > 0 for lap in each)
        assert [lap.arm for lap in each if lap.what == TRAINING] == ["rope", "learned", "moe"]
    rope = {lap.what for lap in laps[0] if lap.arm == "rope"}
    assert len(rope) == 1 + 2 * 2 * 2


def test_what_positions_cannot_name_has_no_lap(laps):
    long = [lap for lap in laps[0] if lap.arm == "learned" and not lap.what.endswith("x4")]
    assert [lap.what for lap in long] == [TRAINING]


def test_a_planted_ratio_is_found_and_a_missing_one_is_said(tmp_path, results):
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, (2, 9)))
    rows = [
        ("base", "training step", n, 0.010 * speed * noise[0, n])
        for n, speed in enumerate(np.linspace(1, 3, 9))  # the machine slows down: the ratio stays
    ]
    rows += [("slow", "training step", n, 2 * row[3] * noise[1, n]) for n, row in enumerate(rows)]
    rows += [("base", "next token, 1x64", n, 0.001) for n in range(9)]
    kept = results.manifest.model_copy(update={"baseline": "base"})
    results = replace(results, manifest=kept)
    assert timing_table(results) is None
    results = timed(tmp_path, results, rows)
    table = timing_table(results)
    assert table is not None
    assert table.columns == ("arm", "training step", "next token, 1x64")
    assert table.rows[1][2] == "cannot"
    ratio, low, high = (float(x.strip("[,]")) for x in table.rows[1][1].split())
    assert low <= 2 <= high and math.isclose(ratio, 2, rel_tol=0.02) and high - low < 0.2


def test_claims_on_times_are_ratios_paired_by_round(tmp_path, results):
    rows = [("base", "training step", n, 0.01 * (n + 1)) for n in range(9)]  # the machine slows down
    rows += [("fast", "training step", n, (0.5 + 0.01 * (-1) ** n) * row[3]) for n, row in enumerate(rows)]
    results = replace(results, manifest=results.manifest.model_copy(update={"baseline": "base"}))
    claims = [
        Claim(id=id, predicate=text, measure="timing/training step")
        for id, text in (("less", "fast/base < 1"), ("more", "fast/base > 1"), ("half", "fast/base == 0.5"))
    ]
    with pytest.raises(ValueError, match="timing=true"):
        judge_timing(claims, results, "timing/training step")
    results = timed(tmp_path, results, rows)
    words = [found.word for found in judge_timing(claims, results, "timing/training step")]
    assert words == ["pass", "fail", "undecided"]
    with pytest.raises(ValueError, match="was not timed; there are timing/training step"):
        judge_timing(claims, results, "timing/next token, 1x64")


def test_a_claim_on_a_time_that_is_no_ratio_is_refused():
    assert kinds("timing/training step") == ("ratio",)
