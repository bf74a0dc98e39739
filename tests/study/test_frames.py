"""Frames from rows, and draws in batches: the same numbers in less memory."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ablate.study.stats import intervals
from ablate.study.stats.frame import frame_of


def test_a_frame_of_rows_is_that_of_their_list() -> None:
    rows = [
        {"id": "a", "status": None, "loss": 1.0, "reads": 1},
        {"id": "b", "status": "finished", "reads": 2, "late": "x"},
        {"id": "c", "status": "finished", "loss": None, "reads": 0, "stale": True},
    ]
    pd.testing.assert_frame_equal(frame_of(iter(rows)), pd.DataFrame(rows))
    assert frame_of([]).empty
    assert math.isnan(frame_of(rows)["loss"][1])


def test_sign_flips_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0).normal(0.3, 1, (20, 3))
    differences = pd.DataFrame(drawn, columns=["a", "b", "c"])
    whole = intervals.sign_flip_p(differences)
    monkeypatch.setattr(intervals, "SIGNS_AT_A_TIME", 20 * 1500)
    assert intervals.sign_flip_p(differences) == whole


def test_a_report_needs_no_torch() -> None:
    code = "import sys, ablate.cli.sweep, ablate.study.report.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
