"""Costs of a study's arms, measured in turn (`sweep.py ... timing=true`): kept beside its results, and shown
as ratios to the baseline. Claims on them: `ablate.study.judge.timing`.

experiments/NAME/results/timings.parquet   arm, what, round, seconds; the machine and the time
"""

from typing import TYPE_CHECKING

from ablate.amounts import interval_text, number, places_of
from ablate.study.report.table import Table
from ablate.study.results import Results
from ablate.study.stats import intervals

if TYPE_CHECKING:
    import pandas as pd


def timing_table(results: Results) -> Table | None:
    """The ratio of each arm's time to the baseline's; None where nothing was measured."""
    manifest, frame = results.manifest, results.timings
    if frame is None:
        return None
    baseline, alpha = manifest.baseline, manifest.study.alpha
    seconds = frame.pivot_table("seconds", "round", ["arm", "what"], sort=False)
    things = list(dict.fromkeys(frame["what"]))
    arms = list(dict.fromkeys(frame["arm"]))
    level = alpha / max(1, (len(arms) - 1) * len(things))
    rows = []
    for arm in arms:
        cells = (_cell(seconds, arm, baseline, what, level) for what in things)
        rows.append((arm, *cells))
    first = frame.iloc[0]
    note = (
        f"Time over that of {baseline}; for {baseline} itself the time. Measured in turn in one process, "
        f"{frame['round'].nunique()} rounds (python sweep.py experiment={manifest.name} timing=true); "
        f"Student's t on the logarithms by round, intervals that hold together at {100 * (1 - alpha):g} %. "
        "A next token is one for every row of the batch; cannot: the positions do not reach so far. "
        f"{first['device_kind']}, torch {first['torch']}, {first['date']}."
    )
    numeric = tuple(range(1, len(things) + 1))
    return Table("Costs in turn", ("arm", *things), tuple(rows), note, numeric)


def _cell(seconds: "pd.DataFrame", arm: str, baseline: str, what: str, alpha: float) -> str:
    import numpy as np

    if (arm, what) not in seconds or (baseline, what) not in seconds:
        return "cannot"
    theirs = seconds[baseline, what].to_numpy()
    if arm == baseline:
        return f"{1e3 * np.median(theirs):.3g} ms"
    own = seconds[arm, what].to_numpy()
    estimate = intervals.paired(np.log(own), np.log(theirs), alpha)
    ratio, low, high = (float(np.exp(x)) for x in (estimate.difference, estimate.low, estimate.high))
    places = places_of([(high - low) / 2])
    return f"{number(ratio, places)} {interval_text(low, high, places, signed=False)}"
