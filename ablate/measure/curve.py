"""Numbers from the curve of a run: spikes, and the size of the gradient."""

from pathlib import Path

import pandas as pd


def read_curve(folder: Path | None) -> pd.DataFrame | None:
    """The rows by step of a run, None where they are not there."""
    if folder is None or not (folder / "curve.parquet").is_file():
        return None
    return pd.read_parquet(folder / "curve.parquet")


def spike_score(values: pd.Series, window: int = 1000, deviations: float = 7.0) -> float | None:
    """The share of values that lie at least so many standard deviations above the mean of the `window` values
    before (OLMo 2, arXiv:2501.00656).

    The first tenth of a window is not judged: a deviation from a handful of values is no deviation. None
    where that leaves nothing.
    """
    before = values.shift(1).rolling(window, min_periods=max(2, window // 10))
    mean, deviation = before.mean(), before.std()
    judged = deviation.notna() & values.notna()
    if not judged.any():
        return None
    high = values[judged] - mean[judged] >= deviations * deviation[judged]
    return float((high & (deviation[judged] > 0)).mean())
