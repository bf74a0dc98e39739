"""Our loop is nanoGPT's: see benchmarks/faithful.py."""

import sys
from pathlib import Path

import numpy as np
from training import write_text

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_the_losses_are_those_of_a_plain_loop(tmp_path):
    from faithful import compare

    text = tmp_path / "input.txt"
    text.write_text(write_text(tmp_path).read_text())
    ours, theirs = compare(text, tmp_path)
    assert len(ours) == len(theirs) == 50
    assert theirs[-1] < theirs[0] - 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
